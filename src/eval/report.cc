#include "eval/report.h"

#include <fmt/format.h>

#include <limits>
#include <map>
#include <tuple>

#include "base/bytes.h"
#include "eval/chart.h"

namespace shadowkv::eval {
namespace {

constexpr const char* kStyle =
    "body{font:14px/1.5 sans-serif;margin:2em auto;max-width:70em;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}th,td{padding:.25em .7em;border-bottom:1px solid #ddd;"
    "text-align:right}th:first-child,td:first-child{text-align:left}small{color:#666}"
    "td.text{text-align:left;max-width:26em;overflow-wrap:anywhere}svg{margin:.5em}";
constexpr std::size_t kMostSamples = 100;  // of those that methods differ on
constexpr std::size_t kMostOutput = 300;   // bytes of an output that are shown

std::string row_of(const std::vector<std::string>& cells, const char* tag) {
  std::string row = "<tr>";
  for (const std::string& cell : cells) row += fmt::format("<{0}>{1}</{0}>", tag, cell);
  return row + "</tr>\n";
}

std::string shown(const Percent& p) {
  if (p.samples == 0) return "-";
  return fmt::format("{:.1f} <small>{:.1f} to {:.1f}</small>", p.mean, p.interval.low, p.interval.high);
}

std::vector<std::string> header_of(const Summary& summary, const char* first) {
  std::vector<std::string> header{first};
  for (const std::string& method : summary.methods()) header.push_back(escaped(method));
  return header;
}

std::string scores_table(const Summary& summary, std::size_t length) {
  std::string table = "<table>\n" + row_of(header_of(summary, "task"), "th");
  for (std::size_t task = 0; task < summary.tasks().size(); ++task) {
    const int64_t samples = summary.cell(task, length, 0).samples;
    if (samples == 0) continue;
    std::vector<std::string> cells{
        fmt::format("{} <small>{}</small>", escaped(summary.tasks()[task]), samples)};
    for (std::size_t m = 0; m < summary.methods().size(); ++m)
      cells.push_back(shown(summary.cell(task, length, m)));
    table += row_of(cells, "td");
  }
  std::vector<std::string> mean{"<b>mean of the tasks</b>"};
  for (std::size_t m = 0; m < summary.methods().size(); ++m)
    mean.push_back(shown(summary.average(length, m)));
  return table + row_of(mean, "td") + "</table>\n";
}

std::string differences_table(const Summary& summary) {
  std::string table =
      "<table>\n" + row_of({fmt::format("less {}", escaped(summary.methods()[0])), "length", "difference",
                            "95 % interval", "samples", "better", "worse", "p (sign test)"},
                           "th");
  for (std::size_t m = 1; m < summary.methods().size(); ++m) {
    for (std::size_t length = 0; length < summary.lengths().size(); ++length) {
      const PairedDifference d = summary.difference(length, m);
      table += row_of(
          {escaped(summary.methods()[m]), length_label(summary.lengths()[length]),
           fmt::format("{:+.2f}", d.mean), fmt::format("{:+.2f} to {:+.2f}", d.interval.low, d.interval.high),
           fmt::format("{}", d.samples), fmt::format("{}", d.better), fmt::format("{}", d.worse),
           fmt::format("{:.3g}", d.p_value)},
          "td");
    }
  }
  return table + "</table>\n";
}

std::string costs_table(const Summary& summary) {
  std::string table = "<table>\n" + row_of({"method", "length", "device", "host", "ms a token"}, "th");
  for (std::size_t m = 0; m < summary.methods().size(); ++m) {
    for (std::size_t length = 0; length < summary.lengths().size(); ++length) {
      const Summary::Cost cost = summary.cost(length, m);
      table += row_of({escaped(summary.methods()[m]), length_label(summary.lengths()[length]),
                       format_bytes(static_cast<int64_t>(cost.device_bytes)),
                       format_bytes(static_cast<int64_t>(cost.host_bytes)),
                       fmt::format("{:.2f}", 1e3 * cost.token_seconds)},
                      "td");
    }
  }
  return table + "</table>\n";
}

LineChart chart_of(const Summary& summary, const std::string& title, const auto& percent_of) {
  LineChart chart{title, {}, {}};
  for (const int64_t length : summary.lengths()) chart.places.push_back(length_label(length));
  for (std::size_t m = 0; m < summary.methods().size(); ++m) {
    Series series{summary.methods()[m], {}, {}};
    for (std::size_t length = 0; length < summary.lengths().size(); ++length) {
      const Percent p = percent_of(length, m);
      series.values.push_back(p.samples == 0 ? std::numeric_limits<double>::quiet_NaN() : p.mean);
      series.intervals.push_back(p.interval);
    }
    chart.series.push_back(std::move(series));
  }
  return chart;
}

std::string charts(const Summary& summary) {
  std::string all =
      svg_of(chart_of(summary, "mean of the tasks by context length",
                      [&](std::size_t length, std::size_t m) { return summary.average(length, m); }));
  for (std::size_t task = 0; task < summary.tasks().size(); ++task) {
    all += svg_of(chart_of(summary, summary.tasks()[task],
                           [&](std::size_t length, std::size_t m) { return summary.cell(task, length, m); }));
  }
  return all;
}

std::string shortened(const std::string& text) {
  std::size_t end = std::min(text.size(), kMostOutput);
  while (end > 0 && end < text.size() && (static_cast<unsigned char>(text[end]) & 0xc0u) == 0x80u) --end;
  return escaped(text.substr(0, end)) + (end < text.size() ? " ..." : "");
}

std::string samples_table(std::span<const Result> results) {
  std::map<std::tuple<std::string, int64_t, std::string>, std::vector<const Result*>> by_sample;
  for (const Result& r : results) by_sample[{r.task, r.length, r.prompt_hash}].push_back(&r);
  std::string table =
      "<table>\n" + row_of({"task", "length", "prompt", "references", "method", "score", "output"}, "th");
  std::size_t count = 0;
  for (const auto& [key, of_sample] : by_sample) {
    bool same = true;
    for (const Result* r : of_sample) same = same && r->score == of_sample[0]->score;
    if (same) continue;
    if (++count > kMostSamples) continue;
    for (const Result* r : of_sample) {
      table += fmt::format(
          "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"text\">{}</td><td>{}</td><td>{:.3g}</td><td "
          "class=\"text\">{}</td></tr>\n",
          escaped(r->task), length_label(r->length), r->prompt_hash,
          shortened(fmt::format("{}", fmt::join(r->references, ", "))), escaped(r->method), r->score,
          shortened(r->output));
    }
  }
  table += "</table>\n";
  return fmt::format(
             "<p>{} samples{}.</p>\n", count,
             count > kMostSamples ? fmt::format(", of which the first {} are shown", kMostSamples) : "") +
         (count == 0 ? "" : table);
}

}  // namespace

std::string html_report(const ReportText& text, std::span<const Result> results) {
  const Summary summary(results);
  std::string page = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta "
      "charset=\"utf-8\"><title>{0}</title><style>{1}</style></head>\n"
      "<body>\n<h1>{0}</h1>\n<table>\n",
      escaped(text.title), kStyle);
  for (const auto& [name, value] : text.facts) page += row_of({escaped(name), escaped(value)}, "td");
  page += "</table>\n";
  if (results.empty()) return page + "<p>No sample was answered.</p>\n</body>\n</html>\n";
  for (const std::string& figure : text.figures) page += figure;
  for (std::size_t length = 0; length < summary.lengths().size(); ++length) {
    page += fmt::format("<h2>{} tokens: score in per cent, 95 % interval</h2>\n",
                        length_label(summary.lengths()[length]));
    page += scores_table(summary, length);
  }
  if (summary.methods().size() > 1)
    page += "<h2>Paired differences, in points</h2>\n" + differences_table(summary);
  page += "<h2>By context length</h2>\n" + charts(summary);
  page += "<h2>Bytes held and time</h2>\n" + costs_table(summary);
  if (summary.methods().size() > 1)
    page += "<h2>Samples on which methods differ</h2>\n" + samples_table(results);
  return page + "</body>\n</html>\n";
}

}  // namespace shadowkv::eval
