// Ctrl-C and SIGTERM: the first asks the running command to stop, the second kills the process.
#pragma once

namespace shadowkv::apps {

void install_interrupt_handler();

[[nodiscard]] bool interrupted();

// Throws Interrupted once Ctrl-C was pressed. Called from every progress and token callback.
void check_interrupted();

}  // namespace shadowkv::apps
