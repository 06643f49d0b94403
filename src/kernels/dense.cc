#include "kernels/operands.h"
#include "kernels/twins.h"

namespace shadowkv {

namespace {

void check_matrix(const char* op, const char* name, const Matrix& matrix, Extent rows, Extent columns) {
  check_shape(op, name, matrix, {rows, columns});
  check_dtype(op, name, matrix.dtype, {DType::f32, DType::bf16, DType::i8});
  if (matrix.quantized()) {
    check_tensor(op, fmt::format("{}'s scales", name), matrix.scales, DType::f32,
                 {{rows.name, matrix.shape[0]}});
  }
}

}  // namespace

void embed(Queue& queue, const EmbedParams& params) {
  const char* op = "embed";
  check_tensor(op, "ids", params.ids, DType::i32, {{"tokens"}});
  check_matrix(op, "table", params.table, {"vocabulary"}, {"hidden"});
  check_activation(op, queue, "out", params.out,
                   {{"tokens", params.ids.shape[0]}, {"hidden", params.table.shape[1]}});
  SHADOWKV_DISPATCH(embed, queue, params);
}

void rms_norm(Queue& queue, const RmsNormParams& params) {
  const char* op = "rms_norm";
  check_activation(op, queue, "x", params.x, {{"tokens"}, {"hidden"}});
  const Extent hidden{"hidden", params.x.shape[1]};
  require(hidden.size >= 1, "{}: hidden is {}, it must be at least 1", op, hidden.size);
  check_tensor(op, "weight", params.weight, DType::f32, {hidden});
  check_activation(op, queue, "out", params.out, {{"tokens", params.x.shape[0]}, hidden});
  require(!params.accumulate || params.out.data != params.x.data, "{}: what is added to is x itself", op);
  SHADOWKV_DISPATCH(rms_norm, queue, params);
}

namespace {

void check_product(const char* op, Queue& queue, const TensorView& x,
                   const MatmulGroupParams::Product& product) {
  const auto& [weight, out, bias] = product;
  check_matrix(op, "weight", weight, {"out"}, {"in", x.shape[1]});
  check_shape(op, "out", out, {{"tokens", x.shape[0]}, {"out", weight.shape[0]}});
  check_dtype(op, "out", out.dtype, {activation_dtype(queue), DType::f32});
  if (!bias.empty()) check_tensor(op, "bias", bias, DType::f32, {{"out", weight.shape[0]}});
}

}  // namespace

void matmul(Queue& queue, const MatmulParams& params) {
  const char* op = "matmul";
  check_activation(op, queue, "x", params.x, {{"tokens"}, {"in"}});
  check_product(op, queue, params.x, {params.weight, params.out, params.bias});
  SHADOWKV_DISPATCH(matmul, queue, params);
}

void matmul_group(Queue& queue, const MatmulGroupParams& params) {
  const char* op = "matmul_group";
  check_activation(op, queue, "x", params.x, {{"tokens"}, {"in"}});
  for (const auto& product : params.products) check_product(op, queue, params.x, product);
  SHADOWKV_DISPATCH(matmul_group, queue, params);
}

void silu_mul(Queue& queue, const SiluMulParams& params) {
  const char* op = "silu_mul";
  check_activation(op, queue, "gate", params.gate, {{"tokens"}, {"inner"}});
  const Extent tokens{"tokens", params.gate.shape[0]};
  const Extent inner{"inner", params.gate.shape[1]};
  check_activation(op, queue, "up", params.up, {tokens, inner});
  check_activation(op, queue, "out", params.out, {tokens, inner});
  SHADOWKV_DISPATCH(silu_mul, queue, params);
}

void rotate(Queue& queue, const RotateParams& params) {
  const char* op = "rotate";
  check_activation(op, queue, "x", params.x, {{"tokens"}, {"heads"}, {"head_dim"}});
  const auto& shape = params.x.shape;
  check_tensor(op, "positions", params.positions, DType::i32, {{"tokens", shape[0]}});
  const int64_t rotary_dim = params.rope.rotary_dim;
  require(rotary_dim >= 0 && rotary_dim % 2 == 0 && rotary_dim <= shape[2],
          "{}: rotary_dim is {}, expected an even number up to head_dim {}", op, rotary_dim, shape[2]);
  require(params.rope.by_row == nullptr || params.rows != nullptr,
          "{}: sequences turn by tables of their own, expected the tokens' rows", op);
  check_activation(op, queue, "out", params.out,
                   {{"tokens", shape[0]}, {"heads", shape[1]}, {"head_dim", shape[2]}});
  SHADOWKV_DISPATCH(rotate, queue, params);
}

}  // namespace shadowkv
