// A sequence's memory to a state file and back: some blocks travel between the device and the host while
// those before or after them are written or read.
#pragma once

#include <span>

#include "base/device.h"
#include "base/memory_piece.h"
#include "formats/state_file.h"

namespace shadowkv {

// pieces: all of the file's content, in order, in either of the device's memories or in the host's. Throw
// what reader and writer do, and OutOfMemory without host memory for two blocks.
void save_content(StateWriter& writer, std::span<const MemoryPiece> pieces, Device& device);
void load_content(const StateReader& reader, std::span<const MemoryPiece> pieces, Device& device);

}  // namespace shadowkv
