#include "model/weights.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <unordered_map>
#include <unordered_set>

#include "base/check.h"
#include "formats/dequantize.h"
#include "formats/quote.h"
#include "model/weights_plan.h"
#include "model/weights_source.h"

namespace shadowkv {
namespace {

std::string shown(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += fmt::format("{}{}", i ? ", " : "", shape[i]);
  return text + "]";
}

// A planned weight and the tensor that it is, or is a part of.
struct Matched {
  const PlannedWeight* weight = nullptr;
  std::string what;  // path and tensor, for messages
  SourceTensor tensor;
  int64_t first = 0;  // row of the tensor that the weight begins with; of a vector, number
};

// What a file must hold under one name.
struct Expected {
  std::string name;
  std::vector<int64_t> shape;
};

// In the order of the plan. Sets the first row of each weight.
std::vector<Expected> expected_tensors(const WeightSource& source, const std::vector<PlannedWeight>& plan,
                                       std::vector<Matched>& matched) {
  std::vector<Expected> all;
  std::unordered_map<std::string, std::size_t> places;
  for (const PlannedWeight& weight : plan) {
    const std::string name = source.name_of(weight);
    Matched one{&weight, fmt::format("{}: tensor {}", source.path(), in_quotes(name)), {}, 0};
    const auto [place, is_new] = places.try_emplace(name, all.size());
    if (is_new) {
      all.push_back({name, weight.shape()});
    } else {
      int64_t& rows = all[place->second].shape[0];
      one.first = rows;
      rows += weight.shape()[0];
    }
    matched.push_back(std::move(one));
  }
  return all;
}

// What is wrong with a file, all of it in one message.
class Faults {
 public:
  explicit Faults(std::string path) : path_(std::move(path)) {}
  void add(const std::string& fault) {
    if (++count_ <= kShown) text_ += fmt::format("{}tensor {}", text_.empty() ? "" : "; ", fault);
  }
  void raise() const {
    if (count_ == 0) return;
    const std::string rest = count_ > kShown ? fmt::format("; and {} more", count_ - kShown) : "";
    throw InvalidInput(fmt::format("{}: {}{}", path_, text_, rest));
  }

 private:
  static constexpr int64_t kShown = 20;
  std::string path_, text_;
  int64_t count_ = 0;
};

// Every tensor of the file must have a use: one that is ignored would silently give another model.
std::vector<Matched> match_all(const WeightSource& source, const std::vector<PlannedWeight>& plan) {
  std::vector<Matched> matched;
  Faults faults(source.path());
  std::unordered_map<std::string, SourceTensor> tensors;
  std::unordered_set<std::string> used;
  for (const auto& [name, shape] : expected_tensors(source, plan, matched)) {
    const std::optional<SourceTensor> tensor = source.find(name);
    used.insert(name);
    if (!tensor) {
      faults.add(fmt::format("{} is missing; {} was expected", in_quotes(name), shown(shape)));
    } else if (tensor->shape != shape) {
      faults.add(fmt::format("{} is {}, expected {}", in_quotes(name), shown(tensor->shape), shown(shape)));
    } else {
      tensors.emplace(name, *tensor);
    }
  }
  for (const std::string& name : source.names()) {
    if (used.contains(name)) continue;
    faults.add(fmt::format("{} has no place in a model of architecture {} with {} layers", in_quotes(name),
                           source.config().architecture, source.config().layers));
  }
  faults.raise();
  for (Matched& one : matched) {
    one.tensor = tensors.at(source.name_of(*one.weight));
    const int64_t block = layout_of(one.tensor.encoding).elements;
    require(one.weight->rows || (one.first % block == 0 && one.weight->columns % block == 0),
            "{} is in blocks of {} numbers, which its parts cut; supported are F32, F16 and BF16", one.what,
            block);
  }
  return matched;
}

// Index of the first number that is infinite or not a number; -1 when there is none. Bits is the unsigned
// integer of the type's size, kExponent its exponent's bits.
template <typename Bits, Bits kExponent>
int64_t first_not_finite(const std::byte* numbers, int64_t count) {
  const auto is_bad = [&](int64_t i) {
    Bits bits;
    std::memcpy(&bits, numbers + i * static_cast<int64_t>(sizeof(Bits)), sizeof(Bits));
    return (bits & kExponent) == kExponent;
  };
  Bits any = 0;
  for (int64_t i = 0; i < count; ++i) any = static_cast<Bits>(any | static_cast<Bits>(is_bad(i)));
  if (!any) return -1;
  int64_t i = 0;
  while (!is_bad(i)) ++i;
  return i;
}

// numbers: rows of the weight in float32 or bfloat16.
void check_finite(const Matched& matched, DType dtype, int64_t first_row, int64_t rows,
                  const std::byte* numbers) {
  const PlannedWeight& weight = *matched.weight;
  const int64_t count = rows * weight.columns;
  const int64_t bad = dtype == DType::f32 ? first_not_finite<uint32_t, 0x7f800000u>(numbers, count)
                                          : first_not_finite<uint16_t, 0x7f80u>(numbers, count);
  require(bad < 0, "{} holds a number that is not finite in {} at row {}, column {}; the file is damaged",
          matched.what, name_of(dtype), first_row + (bad < 0 ? 0 : bad / weight.columns),
          bad < 0 ? 0 : bad % weight.columns);
}

// Expands blocks to bfloat16 through floats, a strip at a time that stays in the first cache.
void expand_to_bf16(Encoding encoding, std::span<const std::byte> blocks, std::span<bf16> out) {
  constexpr std::size_t kStrip = 4096;  // a multiple of every encoding's block
  std::array<float, kStrip> strip;
  const BlockLayout layout = layout_of(encoding);
  for (std::size_t first = 0; first < out.size(); first += kStrip) {
    const std::size_t count = std::min(kStrip, out.size() - first);
    const auto bytes_of = [&](std::size_t elements) {
      return elements / static_cast<std::size_t>(layout.elements) * static_cast<std::size_t>(layout.bytes);
    };
    dequantize(encoding, blocks.subspan(bytes_of(first), bytes_of(count)), {strip.data(), count});
    std::transform(strip.begin(), strip.begin() + static_cast<std::ptrdiff_t>(count),
                   out.begin() + static_cast<std::ptrdiff_t>(first), [](float x) { return bf16(x); });
  }
}

// Rows [first, first + rows) of a tensor as they are in the file.
std::span<const std::byte> blocks_of(const Matched& matched, int64_t first, int64_t rows) {
  const PlannedWeight& weight = *matched.weight;
  const BlockLayout layout = layout_of(matched.tensor.encoding);
  const int64_t row_bytes = weight.columns / layout.elements * layout.bytes;
  const int64_t begin = weight.rows ? (matched.first + first) * row_bytes
                                    : matched.first / layout.elements * layout.bytes;  // vectors are one row
  return matched.tensor.data.subspan(static_cast<std::size_t>(begin),
                                     static_cast<std::size_t>(rows * row_bytes));
}

// A row at a time, by way of floats.
void quantize_rows(const Matched& matched, const WeightFiller::Rows& rows) {
  const int64_t columns = matched.weight->columns;
  std::vector<float> row(static_cast<std::size_t>(columns));
  for (int64_t i = 0; i < rows.count; ++i) {
    dequantize(matched.tensor.encoding, blocks_of(matched, rows.first + i, 1), row);
    check_finite(matched, DType::f32, rows.first + i, 1, reinterpret_cast<const std::byte*>(row.data()));
    rows.scales[i] =
        quantize_matrix_row(row.data(), columns, reinterpret_cast<int8_t*>(rows.numbers) + i * columns);
  }
}

// Rows of a tensor in the planned type.
void expand_rows(const Matched& matched, const WeightFiller::Rows& rows) {
  const PlannedWeight& weight = *matched.weight;
  if (weight.dtype == DType::i8) return quantize_rows(matched, rows);
  const Encoding encoding = matched.tensor.encoding;
  const auto blocks = blocks_of(matched, rows.first, rows.count);
  const auto elements = static_cast<std::size_t>(rows.count * weight.columns);
  if (weight.dtype == DType::f32) {
    dequantize(encoding, blocks, {reinterpret_cast<float*>(rows.numbers), elements});
  } else if (encoding == Encoding::bf16) {
    std::memcpy(rows.numbers, blocks.data(), blocks.size());
  } else {
    expand_to_bf16(encoding, blocks, {reinterpret_cast<bf16*>(rows.numbers), elements});
  }
  check_finite(matched, weight.dtype, rows.first, rows.count, rows.numbers);
}

}  // namespace

LoadedModel load_model(const std::filesystem::path& path, DType matrices, Device& device,
                       const LoadProgress& progress) {
  const std::unique_ptr<WeightSource> source = WeightSource::open(path);
  LoadedModel model{source->config(), {}};
  const std::vector<PlannedWeight> plan = plan_weights(model.config, matrices);
  const std::vector<Matched> matched = match_all(*source, plan);
  model.weights = allocate_weights(model.config, plan, device);
  WeightFiller filler(device, total_bytes(plan), progress);
  for (std::size_t i = 0; i < plan.size(); ++i) {
    filler.fill(plan[i], model.weights.storage[i].data(),
                [&](const WeightFiller::Rows& rows) { expand_rows(matched[i], rows); });
  }
  filler.finish();
  return model;
}

}  // namespace shadowkv
