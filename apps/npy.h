// NumPy's array file, format 1.0.
#pragma once

#include <cstdint>
#include <ostream>
#include <span>

namespace shadowkv::apps {

// values: [rows, columns] float32, row-major.
void write_npy(std::ostream& out, std::span<const float> values, int64_t rows, int64_t columns);

}  // namespace shadowkv::apps
