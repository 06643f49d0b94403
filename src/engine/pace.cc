#include "engine/pace.h"

#include <algorithm>
#include <cmath>

namespace shadowkv {
namespace {

// Share of the gap that is planned for: the rest is for what takes longer than foreseen.
constexpr double kPlanned = 0.75;
// Weight of a new measurement.
constexpr double kNews = 0.3;
// In averages, what counts of a longer one: a plan that is made, a step that is recorded, another program
// happen once, and say nothing about the next.
constexpr double kMostNews = 2;

void smooth(double& average, double measured) {
  average = average > 0 ? average + kNews * (std::min(measured, kMostNews * average) - average) : measured;
}

}  // namespace

double UnitWork::of(int64_t first, int64_t rows) const {
  const double keys = static_cast<double>(first) + static_cast<double>(rows) / 2;
  return static_cast<double>(rows) * (row + key * keys);
}

Pace::Pace(double max_gap, const UnitWork& work, int64_t good_rows)
    : max_gap_(max_gap), work_(work), good_rows_(good_rows) {}

void Pace::step_took(double seconds) {
  smooth(step_s_, seconds);
}

void Pace::slice_took(int64_t first, int64_t rows, double seconds) {
  smooth(s_per_work_, seconds / work_.of(first, rows));
}

void Pace::closing_took(int64_t tokens, double seconds) {
  smooth(s_per_closed_token_, seconds / static_cast<double>(tokens));
}

double Pace::allowance() const {
  return kPlanned * (max_gap_ - 1) * step_s_;
}

int64_t Pace::rows_of(const NextUnit& unit, double seconds, bool is_first) const {
  const bool closes = unit.closing > 0;
  const int64_t worth = std::min(unit.most, closes ? unit.closing : good_rows_);
  const int64_t rows =
      closes ? closed_within(seconds, worth, unit.most) : rows_within(seconds, unit.first, unit.most);
  if (rows < worth && !is_first) return 0;
  return std::max<int64_t>(rows, closes ? worth : 1);
}

// The root of rows * (row + key * (first + rows / 2)) * s_per_work = seconds, in multiples of good_rows
// where there is room for as many.
int64_t Pace::rows_within(double seconds, int64_t first, int64_t most_rows) const {
  const int64_t least = std::min(good_rows_, most_rows);
  if (s_per_work_ <= 0) return least;  // the first slice is a measurement
  const double units = std::max(0.0, seconds) / s_per_work_;
  const double linear = work_.row + work_.key * static_cast<double>(first);
  const double rows = work_.key > 0
                          ? (std::sqrt(linear * linear + 2 * work_.key * units) - linear) / work_.key
                          : units / linear;
  if (rows >= static_cast<double>(most_rows)) return most_rows;
  const auto whole = static_cast<int64_t>(rows);
  return whole < least ? whole : whole / least * least;
}

int64_t Pace::closed_within(double seconds, int64_t least, int64_t most_tokens) const {
  least = std::min(least, most_tokens);
  if (s_per_closed_token_ <= 0) return least;
  const double tokens = std::max(0.0, seconds) / s_per_closed_token_;
  if (tokens >= static_cast<double>(most_tokens)) return most_tokens;
  return static_cast<int64_t>(tokens) / least * least;
}

}  // namespace shadowkv
