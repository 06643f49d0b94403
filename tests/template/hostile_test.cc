// Templates that want more than a chat needs, and constructs that are not supported.
#include <gtest/gtest.h>

#include <ctime>

#include "shadowkv/error.h"
#include "support/sanitizer.h"
#include "template/template.h"

namespace shadowkv::jinja {
namespace {

// Of the processor's time, which other programs leave alone.
constexpr double kMostSeconds = testing::kIsSanitized ? 30 : 2;

std::string repeated(std::string_view text, int count) {
  std::string all;
  for (int i = 0; i < count; ++i) all += text;
  return all;
}

// The one line that a template is refused by; fails where it is not.
std::string refusal(const std::string& source) {
  Budget budget{Limits()};
  const std::clock_t start = std::clock();
  try {
    const Value messages = value_of_json(R"([{"role": "user", "content": "Hi"}])", "messages", budget);
    (void)Template(source, "hostile").render({{"messages", messages}}, budget);
  } catch (const InvalidInput& error) {
    const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    EXPECT_LT(seconds, kMostSeconds) << source.substr(0, 200);
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "not refused: " << source.substr(0, 200);
  return {};
}

constexpr std::string_view kLoop = "{% for i in range(100000) %}";
constexpr std::string_view kEnd = "{% endfor %}";

TEST(HostileTemplate, LoopsThatDoNotEndAreRefused) {
  const std::string loops = repeated(kLoop, 5) + "x" + repeated(kEnd, 5);
  (void)refusal(loops);
  (void)refusal(repeated(kLoop, 3) + repeated(kEnd, 3));
  (void)refusal("{% set l = range(100000)|list %}" + std::string(kLoop) + "{% set x = l|sort %}" +
                std::string(kEnd));
  (void)refusal(std::string(kLoop) + "{% if i in range(100000) %}{% endif %}" + std::string(kEnd));
}

TEST(HostileTemplate, HugeRangesTextsAndListsAreRefused) {
  for (const char* source :
       {"{{ range(100001) }}",
        "{{ range(0, 9223372036854775807, 1) }}",
        "{{ 'a' * 9223372036854775807 }}",
        "{{ 'a' * 10000000000 }}",
        "{{ [0] * 10000000000 }}",
        "{{ ('a' * 1000000)|replace('a', 'b' * 1000000) }}",
        "{{ 'x'|center(10000000000) }}",
        "{{ 'x'|indent(10000000000, true) }}",
        "{{ '%1000000000d' % 5 }}",
        "{{ '%.1000000000f' % 5 }}",
        "{{ 'x'.ljust(10000000000) }}",
        "{{ 'x'.zfill(10000000000) }}",
        "{{ [1]|tojson(indent=10000000000) }}",
        "{{ ('a' * 1000000)|list|map('center', 1000)|join }}",
        "{{ [1]|batch(10000000000, 'x')|list }}",
        "{{ ('x,' * 1000000).split(',')|map('list')|list|tojson * 50 }}",
        "{% set ns = namespace(x='a') %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% for i in range(100000) %}{{ 'a' * 100000 }}{% endfor %}",
        "{{ 2 ** 64 }}",
        "{{ 9223372036854775807 + 1 }}",
        "{{ 99999999999999999999 }}"})
    EXPECT_FALSE(refusal(source).empty());
}

TEST(HostileTemplate, DeepNestingIsRefusedWhereverItIs) {
  (void)refusal("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}");
  (void)refusal("{% macro m(n) %}{% for i in [1] %}{{ m(n + 1) }}{% endfor %}{% endmacro %}{{ m(0) }}");
  (void)refusal("{{ " + repeated("(", 20000) + "1" + repeated(")", 20000) + " }}");
  (void)refusal("{{ " + repeated("[", 20000) + repeated("]", 20000) + " }}");
  (void)refusal("{{ " + repeated("not ", 20000) + "1 }}");
  (void)refusal("{{ " + repeated("-", 20000) + "1 }}");
  (void)refusal("{{ 1" + repeated(" + 1", 20000) + " }}");
  (void)refusal("{{ messages" + repeated("[0]", 20000) + " }}");
  (void)refusal("{{ messages" + repeated("|list", 20000) + " }}");
  (void)refusal("{{ 1" + repeated(" if 1 else 1", 20000) + " }}");
  (void)refusal(repeated("{% if 1 %}", 10000) + repeated("{% endif %}", 10000));
  (void)refusal(
      "{% set ns = namespace(x=[]) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}");
  // As many lists as a depth of 100 can name.
  (void)refusal(
      "{% set ns = namespace(x=[1]) %}{% for i in range(90) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ "
      "ns.x }}");
  (void)refusal(
      "{% set ns = namespace(x=[1]) %}{% for i in range(90) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
      "{{ ns.x|tojson }}");
  (void)refusal(
      "{% set a = namespace(x=[1]) %}{% set b = namespace(x=[1]) %}{% for i in range(90) %}"
      "{% set a.x = [a.x, a.x] %}{% set b.x = [b.x, b.x] %}{% endfor %}{{ a.x == b.x }}");
}

TEST(HostileTemplate, NothingOfPythonIsReached) {
  for (const char* source :
       {"{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.__init__.__globals__ }}",
        "{{ namespace.__init__.__globals__['os'].popen('id') }}", "{{ [].__class__.__base__ }}",
        "{{ ''['__class__']['__mro__'] }}", "{{ ''|attr('__class__')|attr('__mro__') }}",
        "{{ messages.append(1) }}", "{{ messages[0].update({'role': 'system'}) }}",
        "{{ messages[0].pop('role') }}", "{{ '{0.__class__}'.format(1) }}",
        "{{ self._TemplateReference__context }}", "{{ cycler.__init__ }}", "{{ lipsum.__globals__ }}",
        "{{ range.__self__.x }}", "{% set ns = namespace() %}{% set ns._x = 1 %}",
        "{% include '/etc/passwd' %}", "{% import 'os' as os %}", "{% extends '/etc/passwd' %}"})
    EXPECT_FALSE(refusal(source).empty());
}

TEST(HostileTemplate, NoValueHoldsItself) {
  for (const char* source :
       {"{% set ns = namespace() %}{% set ns.x = ns %}", "{% set ns = namespace() %}{% set ns.x = [ns] %}",
        "{% macro m() %}{% endmacro %}{% set x = [m] %}",
        "{% for i in [1] %}{% set x = {'l': loop} %}{% endfor %}",
        "{% set ns = namespace() %}{% for i in [1] %}{% set ns.l = loop %}{% endfor %}"})
    EXPECT_FALSE(refusal(source).empty());
}

TEST(HostileTemplate, WhatIsNotSupportedIsNamedWithItsLine) {
  const std::pair<const char*, const char*> cases[] = {
      {"\n{{ 'x'|urlize }}", "line 2: the filter \"urlize\" is not supported"},
      {"{{ 1 is prime }}", "the test \"prime\" is not supported"},
      {"\n\n{% block b %}{% endblock %}", "line 3: the statement \"block\" is not supported"},
      {"{% for x in messages recursive %}{% endfor %}", "recursive loops are not supported"},
      {"{{ 'x'.encode() }}", "no method \"encode\""},
      {"{{ unknown() }}", "\"unknown\" is undefined"},
      {"{{ 'x'|trim(bytes=1) }}", "\"trim\" has no parameter \"bytes\""},
      {"{{ raise_exception('no\nmore') }}", "it refuses the conversation: no\\x0amore"},
      {"{% if 1 %}", "{% endif %} is missing"},
      {"{{ 'x }}", "a text has no closing quote"},
      {"{{ \xff }}", "not valid UTF-8"}};
  for (const auto& [source, says] : cases)
    EXPECT_NE(refusal(source).find(says), std::string::npos) << refusal(source);
}

}  // namespace
}  // namespace shadowkv::jinja
