#include "shadowkv/ceilings.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <random>

#include "engine/device_choice.h"
#include "kernels/kernels.h"

namespace shadowkv {
namespace {

constexpr int kWarmups = 1;
constexpr int kRuns = 5;
constexpr int64_t kPieceBytes[] = {256, 512, 1024, 2048};
// Pieces come from one window of a memory after the other, as a step's misses come from one head's values
// after the other's: 256 pieces of 16 MiB (limits of address translation show only over whole windows).
constexpr int64_t kWindowBytes = int64_t{16} << 20;
constexpr int64_t kWindowPieces = 256;

// What is taken of each tier, far beyond every cache.
struct Sizes {
  int64_t device, host;  // bytes, multiples of the largest piece
  int64_t product;       // rows and columns of the matrices
};

Sizes sizes_for(const Device& device) {
  const bool gpu = device.kind() == DeviceKind::cuda;
  const int64_t wanted = gpu ? int64_t{4} << 30 : int64_t{256} << 20;
  // Half of what is free leaves room for the matrices and the pieces.
  const auto within = [&](Tier tier) {
    return std::max<int64_t>(std::min(wanted, device.free_bytes(tier) / 2) / 4096 * 4096, 4096);
  };
  const int64_t product = gpu ? 8192 : 768;
  const int64_t bytes = within(Tier::device);
  const int64_t fitting = bytes < wanted ? 64 : product;
  return {.device = bytes, .host = within(Tier::pinned_host), .product = fitting};
}

class CeilingRun {
 public:
  explicit CeilingRun(Device& device)
      : device_(device),
        queue_(device.compute()),
        sizes_(sizes_for(device)),
        device_memory_(device.allocate(Tier::device, Purpose::values, sizes_.device)),
        host_memory_(device.allocate(Tier::pinned_host, Purpose::values, sizes_.host)) {
    randomize(TensorView(device_memory_.data(), DType::f32, {sizes_.device / size_of(DType::f32)}));
    for (int64_t at = 0; at < sizes_.host; at += sizes_.device) {
      queue_.copy(host_memory_.data() + at, device_memory_.data(), std::min(sizes_.device, sizes_.host - at));
    }
    queue_.synchronize();
  }

  Ceilings measure() {
    Ceilings ceilings;
    ceilings.device_read = device_read();
    ceilings.link_copy = link_copy();
    for (const int64_t bytes : kPieceBytes) ceilings.link_gather.push_back({bytes, link_gather(bytes)});
    ceilings.product = product();
    return ceilings;
  }

 private:
  // Units a second of the best of several runs that take `units` each.
  double best_rate(double units, const std::function<void()>& body) {
    double best = 0;
    for (int run = 0; run < kWarmups + kRuns; ++run) {
      const auto start = std::chrono::steady_clock::now();
      body();
      queue_.synchronize();
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
      if (run >= kWarmups) best = std::max(best, units / taken.count());
    }
    return best;
  }

  // Random numbers in [-1, 1]: zeros would draw less power and so run faster.
  void randomize(const TensorView& numbers) {
    const Buffer table = device_.allocate(Tier::device, Purpose::tables, size_of(DType::i64));
    queue_.copy(table.data(), &numbers.data, size_of(DType::i64));
    PagedView rows;
    rows.table = reinterpret_cast<std::byte* const*>(table.data());
    rows.block_tokens = numbers.shape[0];
    rows.token_bytes = numbers.bytes() / numbers.shape[0];
    rows.dtype = numbers.dtype;
    randomize_rows(queue_, {.to = rows,
                            .row = 0,
                            .tokens = numbers.shape[0],
                            .heads = 1,
                            .elements = numbers.row_elements(),
                            .low = -1.0f,
                            .high = 1.0f,
                            .seed = 1});
    queue_.synchronize();
  }

  double device_read() {
    const Buffer folded = device_.allocate(Tier::device, Purpose::activations, size_of(DType::i64));
    const TensorView all(device_memory_.data(), DType::i64, {sizes_.device / size_of(DType::i64)});
    const TensorView result(folded.data(), DType::i64, {1});
    // On a GPU several together, so that launching and waiting do not count.
    const int reads = device_.kind() == DeviceKind::cuda ? 8 : 1;
    return best_rate(reads * static_cast<double>(sizes_.device), [&] {
      for (int i = 0; i < reads; ++i) read_memory(queue_, {.from = all, .folded = result});
    });
  }

  double link_copy() {
    const int64_t bytes = std::min(sizes_.device, sizes_.host);
    return best_rate(static_cast<double>(bytes),
                     [&] { queue_.copy(device_memory_.data(), host_memory_.data(), bytes); });
  }

  // Distinct pieces, drawn anew for each run so that none finds what the last one brought.
  std::vector<int32_t> draw_pieces(int64_t piece_bytes) {
    const int64_t window = std::min(kWindowBytes, sizes_.host) / piece_bytes;
    const int64_t drawn = std::min(kWindowPieces, window);
    const auto most = static_cast<std::size_t>(sizes_.device / piece_bytes);  // the result lies there
    std::vector<int32_t> ids;
    for (int64_t first = 0; first + window <= sizes_.host / piece_bytes; first += window) {
      for (int64_t i = 0; i < drawn; ++i) {  // one of each of `drawn` strata
        const int64_t from = i * window / drawn, to = (i + 1) * window / drawn;
        ids.push_back(static_cast<int32_t>(
            first + from + static_cast<int64_t>(random_() % static_cast<uint64_t>(to - from))));
      }
    }
    ids.resize(std::min(ids.size(), most));
    return ids;
  }

  double link_gather(int64_t piece_bytes) {
    const auto count = static_cast<int64_t>(draw_pieces(piece_bytes).size());
    const Buffer id_memory =
        device_.allocate(Tier::device, Purpose::activations, count * size_of(DType::i32));
    const TensorView ids(id_memory.data(), DType::i32, {count});
    const TensorView from(host_memory_.data(), DType::u8, {sizes_.host / piece_bytes, piece_bytes});
    const TensorView out(device_memory_.data(), DType::u8, {count, piece_bytes});
    double best = 0;
    for (int run = 0; run < kRuns; ++run) {
      const std::vector<int32_t> drawn = draw_pieces(piece_bytes);
      queue_.copy(ids.data, drawn.data(), ids.bytes());
      queue_.synchronize();
      const auto start = std::chrono::steady_clock::now();
      gather_pieces(queue_, {.from = from, .ids = ids, .out = out});
      queue_.synchronize();
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
      best = std::max(best, static_cast<double>(out.bytes()) / taken.count());
    }
    return best;
  }

  double product() {
    const int64_t n = sizes_.product;
    const DType type = device_.activation_dtype();
    const auto matrix_of = [&](DType dtype) {
      return device_.allocate(Tier::device, Purpose::activations, n * n * size_of(dtype));
    };
    const Buffer x = matrix_of(type), weight = matrix_of(DType::bf16), out = matrix_of(type);
    const MatmulParams params{.x = TensorView(x.data(), type, {n, n}),
                              .weight = TensorView(weight.data(), DType::bf16, {n, n}),
                              .bias = {},
                              .out = TensorView(out.data(), type, {n, n})};
    randomize(params.x);
    randomize(params.weight);
    return best_rate(2.0 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n),
                     [&] { matmul(queue_, params); });
  }

  Device& device_;
  Queue& queue_;
  Sizes sizes_;
  Buffer device_memory_, host_memory_;
  std::mt19937_64 random_{1};
};

}  // namespace

double Ceilings::gather_rate(int64_t piece_bytes) const {
  double rate = link_gather.empty() ? 0 : link_gather.front().bytes_per_s;
  for (const GatherCeiling& measured : link_gather) {
    if (measured.piece_bytes <= piece_bytes) rate = measured.bytes_per_s;
  }
  return rate;
}

Ceilings measure_ceilings(const EngineOptions& options) {
  const std::unique_ptr<Device> device = make_device(options);
  return CeilingRun(*device).measure();
}

}  // namespace shadowkv
