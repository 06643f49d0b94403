// Names of the option library, whose own header takes seconds to compile: it is for the files that need more.
#pragma once

namespace CLI {  // NOLINT(readability-identifier-naming): its own name
class App;
class Option;
}  // namespace CLI
