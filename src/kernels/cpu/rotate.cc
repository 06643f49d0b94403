#include <cmath>
#include <vector>

#include "kernels/cpu/work.h"
#include "kernels/twins.h"

namespace shadowkv::cpu {
namespace {

struct Turn {
  std::vector<float> cosines;
  std::vector<float> sines;
};

// Angles in float64: position * frequency reaches 1e6 radians, where float32 keeps no more than 0.06 of one.
void turn_of(const float* frequencies, int32_t position, bool inverse, Turn& turn) {
  for (std::size_t i = 0; i < turn.cosines.size(); ++i) {
    const double angle = static_cast<double>(position) * static_cast<double>(frequencies[i]);
    turn.cosines[i] = static_cast<float>(std::cos(angle));
    turn.sines[i] = static_cast<float>(inverse ? -std::sin(angle) : std::sin(angle));
  }
}

void turn_head(const RopeView& rope, const Turn& turn, const float* x, float* out, int64_t head_dim) {
  const int64_t half = rope.rotary_dim / 2;
  const int64_t step = rope.interleaved ? 2 : 1;      // between pairs
  const int64_t apart = rope.interleaved ? 1 : half;  // within a pair
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[i * step];
    const float b = x[i * step + apart];
    out[i * step] = a * turn.cosines[i] - b * turn.sines[i];
    out[i * step + apart] = b * turn.cosines[i] + a * turn.sines[i];
  }
  for (int64_t i = rope.rotary_dim; i < head_dim; ++i) out[i] = x[i];
}

}  // namespace

void rotate(Queue& queue, const RotateParams& params) {
  constexpr int64_t kGrain = 16;     // tokens
  constexpr int64_t kTurnWork = 64;  // multiply-adds' worth of time of one sine and cosine
  const int64_t tokens = params.x.shape[0];
  const int64_t heads = params.x.shape[1];
  const int64_t head_dim = params.x.shape[2];
  const float* x = params.x.as<float>();
  const int32_t* positions = params.positions.as<int32_t>();
  float* out = params.out.as<float>();
  const int64_t work = tokens * (heads * head_dim + kTurnWork * params.rope.rotary_dim / 2);
  share_ranges(queue, tokens, kGrain, work, [&](int64_t first, int64_t count) {
    Turn turn{std::vector<float>(params.rope.rotary_dim / 2), std::vector<float>(params.rope.rotary_dim / 2)};
    for (int64_t t = first; t < first + count; ++t) {
      const float* frequencies = params.rope.frequencies(params.rows == nullptr ? 0 : params.rows[t]);
      turn_of(frequencies, positions[t], params.inverse, turn);
      for (int64_t h = t * heads; h < (t + 1) * heads; ++h) {
        turn_head(params.rope, turn, x + h * head_dim, out + h * head_dim, head_dim);
      }
    }
  });
}

}  // namespace shadowkv::cpu
