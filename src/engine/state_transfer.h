// A sequence's memory to a state file and back: some blocks travel between the device and the host while
// those before or after them are written or read.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/device.h"
#include "base/memory_piece.h"
#include "formats/state_file.h"

namespace shadowkv {

// The content of such a file: ids, a note, then an attention method's memory. What is read into them was
// not constant.
[[nodiscard]] std::vector<MemoryPiece> state_content(std::span<const int32_t> ids, std::string_view note,
                                                     std::span<const MemoryPiece> state);

// The bytes of a content from `offset` on, and back; return when they are there.
void copy_from_content(std::span<const MemoryPiece> content, int64_t offset, std::span<std::byte> to,
                       Queue& queue);
void copy_to_content(std::span<const MemoryPiece> content, int64_t offset, std::span<const std::byte> from,
                     Queue& queue);

// pieces: all of the file's content, in order, in either of the device's memories or in the host's. Throw
// what reader and writer do, and OutOfMemory without host memory for two blocks.
void save_content(StateWriter& writer, std::span<const MemoryPiece> pieces, Device& device);
void load_content(const StateReader& reader, std::span<const MemoryPiece> pieces, Device& device);

}  // namespace shadowkv
