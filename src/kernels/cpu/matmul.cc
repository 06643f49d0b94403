// One output is the sum over blocks of kDepth inputs, in order, of 16 lane sums added by a fixed tree. Few
// rows read the weights where they lie (bound by their bytes); many rows widen a panel of weights once and
// reuse it.
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

void multiply_panel(const MatmulParams& params, const Panel& panel, float* widened) {
  const int64_t inputs = params.x.shape[1];
  const int64_t outputs = params.out.shape[1];
  if (!params.bias.empty()) start_with_bias(params, panel);
  bool add = params.accumulate || !params.bias.empty();
  for (int64_t k = 0; k < std::max<int64_t>(inputs, 1); k += kDepth) {
    const int64_t depth = std::min(kDepth, inputs - k);
    vector_ops().dot_block({.x = params.x.as<float>() + panel.first_row * inputs + k,
                            .x_stride = inputs,
                            .rows = panel.rows,
                            .w = widened != nullptr ? widen_panel(params, panel, k, depth, widened)
                                                    : weights_in_place(params, panel, k),
                            .outputs = panel.outputs,
                            .k = depth,
                            .out = params.out.as<float>() + panel.first_row * outputs + panel.first_output,
                            .out_stride = outputs,
                            .add = add});
    add = true;
  }
}

}  // namespace

void matmul(Queue& queue, const MatmulParams& params) {
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

void matmul_group(Queue& queue, const MatmulGroupParams& params) {
  for (const auto& [weight, out, bias] : params.products)
    cpu::matmul(queue, {.x = params.x, .weight = weight, .bias = bias, .out = out});
}

}  // namespace shadowkv::cpu
