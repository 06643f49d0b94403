// Causal attention by cuDNN: a plan for each pair of lengths, kept with the device. The library is loaded
// when it is first asked for, so that programs start without it. Bound: 2 * T * N * D multiply-adds a head,
// half of it for a whole prompt.
#include "kernels/cuda/cudnn_attention.h"

#include <cudnn_frontend.h>
#include <dlfcn.h>
#include <fmt/core.h>

#include <compare>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "shadowkv/error.h"

namespace cudnn_frontend {
void* cudnn_dlhandle = nullptr;  // the frontend finds the library's functions through this
}  // namespace cudnn_frontend

namespace shadowkv::cuda {
namespace {

namespace fe = cudnn_frontend;

enum TensorId : int64_t { kQueries = 1, kKeys, kValues, kOut };

// What a plan is made for.
struct PlanShape {
  int64_t queries, keys;  // tokens; the last query sees the last key
  int64_t heads, kv_heads, head_dim;
  float scale;

  auto operator<=>(const PlanShape&) const = default;
};

// [tokens, heads, head_dim] as cuDNN counts: [1, heads, tokens, head_dim].
fe::graph::Tensor_attributes tensor(TensorId id, int64_t tokens, int64_t heads, int64_t head_dim) {
  return fe::graph::Tensor_attributes()
      .set_uid(id)
      .set_dim({1, heads, tokens, head_dim})
      .set_stride({tokens * heads * head_dim, head_dim, heads * head_dim, 1});
}

std::unique_ptr<fe::graph::Graph> describe(const PlanShape& s) {
  auto graph = std::make_unique<fe::graph::Graph>();
  graph->set_io_data_type(fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  const auto q = graph->tensor(tensor(kQueries, s.queries, s.heads, s.head_dim));
  const auto k = graph->tensor(tensor(kKeys, s.keys, s.kv_heads, s.head_dim));
  const auto v = graph->tensor(tensor(kValues, s.keys, s.kv_heads, s.head_dim));
  const auto options = fe::graph::SDPA_attributes()
                           .set_generate_stats(false)
                           .set_attn_scale(s.scale)
                           .set_diagonal_alignment(fe::DiagonalAlignment_t::BOTTOM_RIGHT)
                           .set_diagonal_band_right_bound(0);
  const auto out = graph->sdpa(q, k, v, options)[0];
  const auto as = tensor(kOut, s.queries, s.heads, s.head_dim);
  out->set_output(true).set_uid(kOut).set_dim(as.get_dim()).set_stride(as.get_stride());
  return graph;
}

// One a device. Calls come one at a time.
class Cudnn {
 public:
  explicit Cudnn(CudaDevice& /*device*/) {
    if (load() && fe::detail::create_handle(&handle_) != CUDNN_STATUS_SUCCESS) handle_ = nullptr;
  }
  ~Cudnn() {
    plans_.clear();
    if (handle_ != nullptr) fe::detail::destroy_handle(handle_);
  }
  Cudnn(const Cudnn&) = delete;
  Cudnn& operator=(const Cudnn&) = delete;

  [[nodiscard]] bool run(Queue& queue, const PlanShape& shape, std::unordered_map<int64_t, void*> tensors) {
    const std::lock_guard lock(mutex_);
    fe::graph::Graph* plan = handle_ == nullptr ? nullptr : plan_for(shape);
    if (plan == nullptr) return false;
    const bool started =
        fe::detail::set_stream(handle_, stream_of(queue)) == CUDNN_STATUS_SUCCESS &&
        plan->execute(handle_, tensors, static_cast<CudaQueue&>(queue).workspace()).is_good();
    if (!started) {
      throw DeviceFailure(fmt::format("prefill_attention: cuDNN failed with {} queries over {} keys",
                                      shape.queries, shape.keys));
    }
    return true;
  }

 private:
  // Every prompt has a last slice of its own; what is older is made again when it is wanted again.
  static constexpr std::size_t kMostPlans = 1024;

  // The library stays loaded: other devices may use it, and it has threads of its own.
  static bool load() {
    static std::mutex mutex;
    const std::lock_guard lock(mutex);
    if (fe::cudnn_dlhandle == nullptr) fe::cudnn_dlhandle = dlopen("libcudnn.so.9", RTLD_NOW);
    return fe::cudnn_dlhandle != nullptr;
  }

  fe::graph::Graph* plan_for(const PlanShape& shape) {
    if (plans_.size() == kMostPlans) plans_.clear();
    const auto [place, is_new] = plans_.try_emplace(shape);
    if (is_new) place->second = make_plan(shape);
    return place->second.get();
  }

  // Null where cuDNN has none, or only one that wants more memory than a queue's workspace.
  std::unique_ptr<fe::graph::Graph> make_plan(const PlanShape& shape) {
    auto graph = describe(shape);
    int64_t bytes = 0;
    if (graph->build(handle_, {fe::HeurMode_t::A}).is_bad()) return nullptr;
    if (graph->get_workspace_size(bytes).is_bad() || bytes > CudaQueue::kWorkspaceBytes) return nullptr;
    return graph;
  }

  cudnnHandle_t handle_ = nullptr;  // null: there is no cuDNN
  std::mutex mutex_;
  std::map<PlanShape, std::unique_ptr<fe::graph::Graph>> plans_;  // guarded by mutex_; null: no kernel
};

}  // namespace

bool run_cudnn_attention(Queue& queue, const PrefillAttentionParams& p) {
  const int64_t queries = p.q.shape[0], keys = p.first_position + queries;
  const PlanShape shape{queries, keys, p.q.shape[1], p.k.shape[1], p.q.shape[2], p.scale};
  return device_of(queue).state<Cudnn>().run(
      queue, shape, {{kQueries, p.q.data}, {kKeys, p.k.data}, {kValues, p.v.data}, {kOut, p.out.data}});
}

}  // namespace shadowkv::cuda
