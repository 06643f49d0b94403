#include "exit_code.h"

#include <CLI/CLI.hpp>
#include <CLI/Error.hpp>
#include <algorithm>
#include <iostream>
#include <new>

#include "shadowkv/error.h"

namespace shadowkv::apps {
namespace {

int report(int code, const std::string& message) {
  std::cout.flush();
  std::cerr << "shadowkv: " << one_line(message) << std::endl;
  return code;
}

}  // namespace

std::string one_line(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  std::replace(text.begin(), text.end(), '\r', ' ');
  while (text.ends_with(' ')) text.pop_back();
  return text;
}

int run_and_report(const std::function<int()>& body) {
  try {
    return body();
  } catch (const InvalidInput& error) {
    return report(2, error.what());
  } catch (const CLI::Error& error) {
    return report(2, std::string(error.what()) + "; see shadowkv --help");
  } catch (const OutOfMemory& error) {
    return report(2, error.what());
  } catch (const std::bad_alloc&) {
    return report(3, "the machine's memory ran out; use a shorter context or a smaller batch");
  } catch (const DeviceFailure& error) {
    return report(4, error.what());
  } catch (const Interrupted& error) {
    return report(130, error.what());
  } catch (const std::exception& error) {
    return report(1, error.what());
  }
}

}  // namespace shadowkv::apps
