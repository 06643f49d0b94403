// One output is the sum over blocks of kDepth inputs, in order, of 16 lane sums added by a fixed tree. Few
// rows read the weights where they lie (bound by their bytes); many rows widen a panel of weights once and
// reuse it. Codes are multiplied by inputs in their order, and the sums by the rows' scales at the end.
#include <algorithm>

#include "base/check.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/work.h"
#include "kernels/twins.h"

namespace shadowkv::cpu {
namespace {

constexpr int64_t kDepth = 768;             // inputs a block; part of the result's definition
constexpr int64_t kFewRows = 8;             // up to here weights are not widened ahead
constexpr int64_t kPanelRows = 256;         // rows of x that stay in the second-level cache: 768 KiB
constexpr int64_t kPanelOutputs = 32;       // outputs of a widened panel: 96 KiB
constexpr int64_t kDirectBytes = 64 << 10;  // weights of one unit of work without widening

struct Panel {
  int64_t first_row, rows;
  int64_t first_output, outputs;
};

void start_with_bias(const MatmulParams& params, const Panel& panel) {
  const float* bias = params.bias.as<float>();
  const int64_t stride = params.out.shape[1];
  for (int64_t r = panel.first_row; r < panel.first_row + panel.rows; ++r) {
    float* out = params.out.as<float>() + r * stride;
    for (int64_t o = panel.first_output; o < panel.first_output + panel.outputs; ++o) {
      out[o] = params.accumulate ? out[o] + bias[o] : bias[o];
    }
  }
}

// Outputs [first, first + count) of inputs [k, k + depth), as float32.
RowsView widen_panel(const MatmulParams& params, const Panel& panel, int64_t k, int64_t depth, float* to) {
  const int64_t item = size_of(params.weight.dtype);
  for (int64_t o = 0; o < panel.outputs; ++o) {
    const std::byte* from =
        params.weight.data + ((panel.first_output + o) * params.weight.shape[1] + k) * item;
    vector_ops().widen(from, params.weight.dtype, 1.0f, to + o * kDepth, depth);
  }
  return {reinterpret_cast<const std::byte*>(to), kDepth * static_cast<int64_t>(sizeof(float)), DType::f32};
}

RowsView weights_in_place(const MatmulParams& params, const Panel& panel, int64_t k) {
  const int64_t stride = params.weight.shape[1] * size_of(params.weight.dtype);
  const std::byte* data = params.weight.data + panel.first_output * stride + k * size_of(params.weight.dtype);
  return {data, stride, params.weight.dtype};
}

struct Sums {
  float* data;
  int64_t stride;
  bool add;  // to what is there
};

void add_products(const MatmulParams& params, const Panel& panel, float* widened, Sums sums) {
  const int64_t inputs = params.x.shape[1];
  for (int64_t k = 0; k < std::max<int64_t>(inputs, 1); k += kDepth) {
    const int64_t depth = std::min(kDepth, inputs - k);
    vector_ops().dot_block({.x = params.x.as<float>() + panel.first_row * inputs + k,
                            .x_stride = inputs,
                            .rows = panel.rows,
                            .w = widened != nullptr ? widen_panel(params, panel, k, depth, widened)
                                                    : weights_in_place(params, panel, k),
                            .outputs = panel.outputs,
                            .k = depth,
                            .out = sums.data,
                            .out_stride = sums.stride,
                            .add = sums.add});
    sums.add = true;
  }
}

// Sums of products of codes into outputs.
void scale_sums(const MatmulParams& params, const Panel& panel, const float* sums) {
  const float* scales = params.weight.scales.as<float>() + panel.first_output;
  const float* bias = params.bias.empty() ? nullptr : params.bias.as<float>() + panel.first_output;
  const int64_t stride = params.out.shape[1];
  for (int64_t r = 0; r < panel.rows; ++r) {
    float* out = params.out.as<float>() + (panel.first_row + r) * stride + panel.first_output;
    for (int64_t o = 0; o < panel.outputs; ++o) {
      const float before = params.accumulate ? out[o] : 0.0f;
      out[o] = before + (bias != nullptr ? bias[o] : 0.0f) + scales[o] * sums[r * panel.outputs + o];
    }
  }
}

void multiply_panel(const MatmulParams& params, const Panel& panel, float* widened) {
  if (params.weight.quantized()) {
    const Scratch sums(panel.rows * panel.outputs);
    add_products(params, panel, widened, {sums.data(), panel.outputs, false});
    return scale_sums(params, panel, sums.data());
  }
  if (!params.bias.empty()) start_with_bias(params, panel);
  const int64_t stride = params.out.shape[1];
  float* out = params.out.as<float>() + panel.first_row * stride + panel.first_output;
  add_products(params, panel, widened, {out, stride, params.accumulate || !params.bias.empty()});
}

// Inputs in the order of codes.
Scratch in_places(const TensorView& x) {
  const int64_t inputs = x.shape[1];
  Scratch placed(x.elements());
  const float* from = x.as<float>();
  for (int64_t r = 0; r < x.shape[0]; ++r) {
    for (int64_t i = 0; i < inputs; ++i)
      placed.data()[r * inputs + code_place(i, inputs)] = from[r * inputs + i];
  }
  return placed;
}

void multiply(Queue& queue, const MatmulParams& params) {
  const int64_t rows = params.x.shape[0];
  const int64_t inputs = params.x.shape[1];
  const int64_t outputs = params.out.shape[1];
  const bool widen = rows > kFewRows;
  const int64_t row_bytes = std::max<int64_t>(inputs, 1) * size_of(params.weight.dtype);
  const int64_t panel_outputs =
      widen ? kPanelOutputs : round_up(std::max<int64_t>(kDirectBytes / row_bytes, 1), 4);
  const int64_t row_panels = ceil_div(rows, kPanelRows);
  const int64_t output_panels = ceil_div(outputs, panel_outputs);
  share_work(queue, row_panels * output_panels, rows * outputs * inputs, [&](int64_t i) {
    const int64_t row = i / output_panels * kPanelRows;
    const int64_t output = i % output_panels * panel_outputs;
    const Panel panel{row, std::min(kPanelRows, rows - row), output,
                      std::min(panel_outputs, outputs - output)};
    if (!widen) return multiply_panel(params, panel, nullptr);
    const Scratch widened(kPanelOutputs * kDepth);
    multiply_panel(params, panel, widened.data());
  });
}

}  // namespace

void matmul(Queue& queue, const MatmulParams& params) {
  if (!params.weight.quantized()) return multiply(queue, params);
  const Scratch placed = in_places(params.x);
  MatmulParams codes = params;
  codes.x.data = reinterpret_cast<std::byte*>(placed.data());
  multiply(queue, codes);
}

void matmul_group(Queue& queue, const MatmulGroupParams& params) {
  for (const auto& [weight, out, bias] : params.products)
    cpu::matmul(queue, {.x = params.x, .weight = weight, .bias = bias, .out = out});
}

}  // namespace shadowkv::cpu
