#include "kernels/operands.h"
#include "kernels/twins.h"

namespace shadowkv {

void read_memory(Queue& queue, const ReadMemoryParams& params) {
  const char* op = "read_memory";
  check_tensor(op, "from", params.from, DType::i64, {{"numbers"}});
  require(params.from.shape[0] % 2 == 0, "{}: {} numbers are not an even count", op, params.from.shape[0]);
  check_tensor(op, "folded", params.folded, DType::i64, {{"results", 1}});
  SHADOWKV_DISPATCH(read_memory, queue, params);
}

void gather_pieces(Queue& queue, const GatherPiecesParams& params) {
  const char* op = "gather_pieces";
  check_tensor(op, "from", params.from, DType::u8, {{"pieces"}, {"bytes"}});
  const Extent bytes{"bytes", params.from.shape[1]};
  require(bytes.size > 0 && bytes.size % 16 == 0, "{}: pieces of {} bytes are not a multiple of 16", op,
          bytes.size);
  check_tensor(op, "ids", params.ids, DType::i32, {{"ids"}});
  check_tensor(op, "out", params.out, DType::u8, {{"ids", params.ids.shape[0]}, bytes});
  if (params.ids.shape[0] == 0) return;
  SHADOWKV_DISPATCH(gather_pieces, queue, params);
}

}  // namespace shadowkv
