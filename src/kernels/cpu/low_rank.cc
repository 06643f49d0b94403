#include <Eigen/Dense>
#include <algorithm>
#include <vector>

#include "base/check.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/storage.h"
#include "kernels/twins.h"

namespace shadowkv::cpu {
namespace {

constexpr int64_t kTile = 64;         // columns of one side of a Gram tile
constexpr int64_t kBlockTokens = 64;  // tokens summed in float32 before they are added in float64

// Columns [first, first + kTile) of tokens [token, token + count), centred; columns beyond the width are 0.
struct CentredTile {
  alignas(64) float numbers[kBlockTokens][kTile];

  void load(const FitBasisParams& p, int64_t token, int64_t count, int64_t first) {
    const int64_t width = p.x.shape[1], columns = std::min(kTile, width - first);
    const float* mean = p.mean.as<float>() + first;
    for (int64_t t = 0; t < count; ++t) {
      const float* row = p.x.as<float>() + (token + t) * width + first;
      for (int64_t c = 0; c < columns; ++c) numbers[t][c] = row[c] - mean[c];
      for (int64_t c = columns; c < kTile; ++c) numbers[t][c] = 0.0f;
    }
  }
};

struct GramTile {
  alignas(64) double sums[kTile][kTile];
};

// sums += left^T right over `count` tokens, four rows of the tile at a time.
SHADOWKV_INLINE void add_products(const CentredTile& left, const CentredTile& right, int64_t count,
                                  GramTile& tile) {
  for (int64_t i = 0; i < kTile; i += 4) {
    Lanes sums[4][4] = {};
    for (int64_t t = 0; t < count; ++t) {
      Lanes columns[4];
      SHADOWKV_UNROLL
      for (int64_t j = 0; j < 4; ++j) load(right.numbers[t] + j * kLanes, columns[j]);
      SHADOWKV_UNROLL
      for (int64_t r = 0; r < 4; ++r) {
        SHADOWKV_UNROLL
        for (int64_t j = 0; j < 4; ++j) sums[r][j] += columns[j] * left.numbers[t][i + r];
      }
    }
    SHADOWKV_UNROLL
    for (int64_t r = 0; r < 4; ++r) {
      SHADOWKV_UNROLL
      for (int64_t j = 0; j < 4; ++j) {
        for (int64_t l = 0; l < kLanes; ++l)
          tile.sums[i + r][j * kLanes + l] += static_cast<double>(sums[r][j][l]);
      }
    }
  }
}

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic>;

// One tile of the lower triangle: rows from `row`, columns from `column`, row >= column.
void fill_tile(const FitBasisParams& p, int64_t row, int64_t column, Matrix& gram) {
  const int64_t tokens = p.x.shape[0], width = p.x.shape[1];
  GramTile tile{};
  CentredTile left, right;
  for (int64_t token = 0; token < tokens; token += kBlockTokens) {
    const int64_t count = std::min(kBlockTokens, tokens - token);
    left.load(p, token, count, row);
    if (row != column) right.load(p, token, count, column);
    const CentredTile& other = row == column ? left : right;
    run_best([&]() SHADOWKV_LAMBDA_INLINE { add_products(left, other, count, tile); });
  }
  for (int64_t i = row; i < std::min(row + kTile, width); ++i) {
    for (int64_t j = column; j < std::min(column + kTile, width); ++j)
      gram(i, j) = tile.sums[i - row][j - column];
  }
}

Matrix gram_matrix(Queue& queue, const FitBasisParams& p) {
  const int64_t tokens = p.x.shape[0], width = p.x.shape[1], tiles = ceil_div(width, kTile);
  Matrix gram(width, width);
  for_pieces(queue, tiles * tiles, tokens * 100, [&](int64_t i) {
    const int64_t row = i / tiles, column = i % tiles;
    if (row >= column) fill_tile(p, row * kTile, column * kTile, gram);
  });
  return gram;
}

// Writes eigenvector `column` as basis row `r`, its entry of largest magnitude positive.
void store_vector(const Matrix& vectors, int64_t column, int64_t r, const FitBasisParams& p) {
  const int64_t width = p.x.shape[1];
  int64_t largest = 0;
  for (int64_t i = 1; i < width; ++i) {
    if (std::fabs(vectors(i, column)) > std::fabs(vectors(largest, column))) largest = i;
  }
  const double sign = vectors(largest, column) < 0.0 ? -1.0 : 1.0;
  for (int64_t i = 0; i < width; ++i) {
    const auto x = static_cast<float>(sign * vectors(i, column));
    if (p.basis.dtype == DType::f32)
      p.basis.as<float>()[r * width + i] = x;
    else
      p.basis.as<bf16>()[r * width + i] = bf16(x);
  }
}

// What four tokens of one segment share.
struct Segment {
  const float* mean;
  const std::byte* basis;
  bool operator==(const Segment&) const = default;
};

Segment segment_of(const PagedView& mean, const PagedView& basis, int64_t row, int64_t token) {
  return {reinterpret_cast<const float*>(mean.at(row, 0, token)), basis.at(row, 0, token)};
}

constexpr int64_t kGroup = 4;  // tokens that share each read of the basis

// factors[t][r] = centred[t] . basis[r]; centred has `padded` numbers a token, zeros past the width.
template <typename Basis>
SHADOWKV_INLINE void project_group(const float* centred, int64_t padded, const Basis* basis, int64_t width,
                                   int64_t rank, float* factors) {
  for (int64_t r = 0; r < rank; ++r) {
    Lanes sums[kGroup] = {};
    Lanes b, x;
    for (int64_t i = 0; i < width; i += kLanes) {
      if (i + kLanes <= width)
        load(basis + r * width + i, b);
      else
        load_part(basis + r * width + i, width - i, b);
      SHADOWKV_UNROLL
      for (int64_t t = 0; t < kGroup; ++t) {
        load(centred + t * padded + i, x);
        sums[t] += x * b;
      }
    }
    SHADOWKV_UNROLL
    for (int64_t t = 0; t < kGroup; ++t) factors[t * rank + r] = sum_lanes(sums[t]);
  }
}

// Projects tokens [first, first + count), count <= kGroup, all of one segment. Missing ones are zeros, so
// that every token goes through the same arithmetic.
void project_tokens(const ProjectKeysParams& p, const Segment& segment, int64_t first, int64_t count) {
  const int64_t width = p.x.row_elements(), padded = round_up(width, kLanes);
  std::vector<float> centred(static_cast<std::size_t>(kGroup * padded));
  std::vector<float> factors(static_cast<std::size_t>(kGroup * p.rank));
  for (int64_t t = 0; t < count; ++t) {
    const float* x = p.x.as<float>() + (first + t) * width;
    float* to = centred.data() + t * padded;
    for (int64_t i = 0; i < width; ++i) to[i] = x[i] - segment.mean[i];
  }
  run_best([&]() SHADOWKV_LAMBDA_INLINE {
    with_numbers(segment.basis, p.basis.dtype, [&](const auto* basis) SHADOWKV_LAMBDA_INLINE {
      project_group(centred.data(), padded, basis, width, p.rank, factors.data());
    });
  });
  for (int64_t t = 0; t < count; ++t) {
    const int64_t token = first + t;
    store_row(p.factors, p.tokens.rows[token], 0, p.tokens.positions[token], factors.data() + t * p.rank,
              p.rank);
  }
}

}  // namespace

void column_mean(Queue& queue, const ColumnMeanParams& p) {
  const int64_t tokens = p.x.shape[0], width = p.x.shape[1];
  const float* x = p.x.as<float>();
  float* mean = p.mean.as<float>();
  for_pieces(queue, ceil_div(width, kTile), tokens * kTile, [&](int64_t i) {
    const int64_t first = i * kTile, columns = std::min(kTile, width - first);
    double sums[kTile] = {};
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t c = 0; c < columns; ++c) sums[c] += static_cast<double>(x[t * width + first + c]);
    }
    for (int64_t c = 0; c < columns; ++c)
      mean[first + c] = static_cast<float>(sums[c] / static_cast<double>(tokens));
  });
}

void fit_basis(Queue& queue, const FitBasisParams& p) {
  const int64_t width = p.x.shape[1], rank = p.basis.shape[0];
  const Matrix gram = gram_matrix(queue, p);
  require(gram.diagonal().allFinite(), "fit_basis: the keys {} hold numbers that are not finite",
          p.x.describe());
  const Eigen::SelfAdjointEigenSolver<Matrix> solver(gram);  // reads the lower triangle; values ascend
  require(solver.info() == Eigen::Success, "fit_basis: the eigenvectors of {} keys were not found",
          p.x.describe());
  for (int64_t r = 0; r < rank; ++r) store_vector(solver.eigenvectors(), width - 1 - r, r, p);
}

void project_keys(Queue& queue, const ProjectKeysParams& p) {
  constexpr int64_t kPiece = 32;  // tokens
  const int64_t tokens = p.tokens.count;
  const auto segment = [&](int64_t token) {
    return segment_of(p.mean, p.basis, p.tokens.rows[token], p.tokens.positions[token]);
  };
  for_pieces(queue, ceil_div(tokens, kPiece), kPiece * p.x.row_elements() * p.rank / 16, [&](int64_t piece) {
    const int64_t end = std::min(tokens, (piece + 1) * kPiece);
    for (int64_t first = piece * kPiece; first < end;) {
      const Segment shared = segment(first);
      int64_t count = 1;
      while (count < kGroup && first + count < end && segment(first + count) == shared) ++count;
      project_tokens(p, shared, first, count);
      first += count;
    }
  });
}

}  // namespace shadowkv::cpu
