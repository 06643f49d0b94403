#include "template/budget.h"

#include "base/bytes.h"
#include "base/check.h"

namespace shadowkv::jinja {

void Budget::step(int64_t count) {
  steps_ += count;
  require(steps_ <= limits_.steps, "it takes more than {} steps; does one of its loops end?", limits_.steps);
}

void Budget::take(int64_t bytes) {
  require(bytes <= limits_.bytes - bytes_, "it makes more than {} of texts and lists",
          format_bytes(limits_.bytes));
  bytes_ += bytes;
  step(bytes / 64);
}

Budget::Level::Level(Budget& budget) : budget_(budget) {
  require(budget_.depth_ < budget_.limits_.depth, "its macros and expressions are nested more than {} deep",
          budget_.limits_.depth);
  ++budget_.depth_;
  budget_.step();
}

}  // namespace shadowkv::jinja
