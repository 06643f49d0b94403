// Names and what they stand for; a scope sees those around it.
#pragma once

#include <string_view>
#include <utility>
#include <vector>

#include "template/value.h"

namespace shadowkv::jinja {

class Scope {
 public:
  explicit Scope(const Scope* around = nullptr) : around_(around) {}

  // `name` outlives the scope.
  void set(std::string_view name, Value value, Budget& budget) {
    if (Value* own = find_own(name, budget)) {
      *own = std::move(value);
      return;
    }
    budget.take(static_cast<int64_t>(sizeof(entries_[0])));
    entries_.emplace_back(name, std::move(value));
  }
  // nullptr where neither this scope nor one around it has the name.
  [[nodiscard]] const Value* find(std::string_view name, Budget& budget) const {
    for (const Scope* scope = this; scope != nullptr; scope = scope->around_) {
      if (const Value* value = const_cast<Scope*>(scope)->find_own(name, budget)) return value;
    }
    return nullptr;
  }

 private:
  Value* find_own(std::string_view name, Budget& budget) {
    budget.step(1 + static_cast<int64_t>(entries_.size()) / 16);
    for (auto& [own, value] : entries_) {
      if (own == name) return &value;
    }
    return nullptr;
  }

  const Scope* around_;
  std::vector<std::pair<std::string_view, Value>> entries_;
};

}  // namespace shadowkv::jinja
