#include "report/page.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <string>

#include "run_folder.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

using testing::hostile;
using testing::RunFolderFixture;

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

nlohmann::json island_of(const std::string& page) {
  const std::string begin = "<script type=\"application/json\" id=\"data\">";
  const std::size_t from = page.find(begin) + begin.size();
  return nlohmann::json::parse(page.substr(from, page.find("</script>", from) - from));
}

// Runs `page` in a browser together with `script`, and returns the document afterwards and what the console said. Empty
// where no browser is installed.
struct Browsed {
  std::string document;
  std::string console;
};
std::optional<Browsed> browse(const RunFolderFixture& folder, std::string page, const std::string& script) {
  std::string browser;
  for (const char* name : {"chromium", "chromium-browser", "google-chrome"}) {
    if (std::system((std::string("command -v ") + name + " >/dev/null 2>&1").c_str()) == 0) browser = name;
  }
  if (browser.empty()) return std::nullopt;
  page.insert(page.find("</body>"), "<script>" + script + "</script>");
  testing::write_bytes(folder.beside("page.html"), page);
  const std::string command = browser +
                              " --headless --no-sandbox --disable-gpu --window-size=1200,2000 "
                              "--virtual-time-budget=10000 --enable-logging=stderr --user-data-dir='" +
                              folder.beside("profile").string() + "' --dump-dom 'file://" +
                              folder.beside("page.html").string() + "' >'" + folder.beside("dom").string() + "' 2>'" +
                              folder.beside("log").string() + "'";
  EXPECT_EQ(std::system(command.c_str()), 0) << testing::read_bytes(folder.beside("log"));
  Browsed result{testing::read_bytes(folder.beside("dom")), ""};
  const std::string log = testing::read_bytes(folder.beside("log"));
  std::istringstream lines(log);
  for (std::string line; std::getline(lines, line);) {
    if (line.find("CONSOLE") != std::string::npos) result.console += line + "\n";
  }
  return result;
}

TEST(Page, HoldsTheRunAndLoadsNothing) {
  const RunFolderFixture folder;
  const std::string page = report_page({.runs = {folder.path()}, .trace = {}, .cluster = {}});
  const nlohmann::json data = island_of(page);
  ASSERT_EQ(data["runs"].size(), 1U);
  const nlohmann::json& run = data["runs"][0];
  EXPECT_EQ(run["name"], "run");
  EXPECT_EQ(run["last_step"], 9);
  EXPECT_EQ(run["skipped"], nlohmann::json({5}));
  EXPECT_EQ(run["starts"].size(), 2U);
  EXPECT_EQ(run["curves"]["loss"]["values"][1], 2.5);
  EXPECT_TRUE(run["curves"]["loss"]["values"][4].is_null());
  EXPECT_EQ(run["curves"]["lr"]["values"][2], 0.003);
  EXPECT_EQ(run["layout"]["stages"][1]["shards"], 3);
  EXPECT_EQ(run["predicted"]["ranks"].size(), 4U);
  EXPECT_EQ(run["measured"]["step"], 3);
  EXPECT_EQ(run["rank_means"]["slowest"], nlohmann::json({0, 0, 9, 0}));

  // Nothing is loaded: no address but the name of SVG's elements, and none in an attribute.
  EXPECT_EQ(count(page, "http://") + count(page, "https://"), count(page, "http://www.w3.org/2000/svg"));
  for (const std::string attribute : {"src", "href"}) {
    for (std::size_t at = page.find(attribute); at != std::string::npos; at = page.find(attribute, at + 1)) {
      const auto next = [&](std::size_t from) {
        return std::min(page.find_first_not_of(" \t\n", from), page.size() - 1);
      };
      const std::size_t equals = next(at + attribute.size());
      const std::size_t quote = next(equals + 1);
      if (page[equals] != '=' || (page[quote] != '"' && page[quote] != '\'')) continue;
      EXPECT_TRUE(page.substr(quote + 1, 5) == "data:" || page[quote + 1] == '#') << page.substr(at, 80);
    }
  }
  for (const char* part : {"@import", "<iframe", "<img", "fetch(", "XMLHttpRequest", "import("}) {
    EXPECT_EQ(count(page, part), 0U) << part;
  }
  EXPECT_EQ(count(page, "url("), count(page, "url(#"));
  EXPECT_NE(page.find("Content-Security-Policy\" content=\"default-src 'none'"), std::string::npos);
}

TEST(Page, WhatComesFromFilesIsNeverMarkup) {
  const RunFolderFixture folder("<b>&\"{{data}}");
  const std::string page = report_page({.runs = {folder.path()}, .trace = {}, .cluster = {}});
  EXPECT_EQ(count(page, "<script"), 2U);  // the data, and the page's own
  EXPECT_EQ(count(page, "</script>"), 2U);
  EXPECT_EQ(count(page, "alert(1)<"), 0U);
  EXPECT_NE(page.find("<title>&lt;b&gt;&amp;&quot;{{data}} · photon report</title>"), std::string::npos);
  const nlohmann::json run = island_of(page)["runs"][0];
  EXPECT_EQ(run["name"], "<b>&\"{{data}}");
  EXPECT_NE(run["config"].get<std::string>().find(hostile), std::string::npos);
  EXPECT_EQ(run["starts"][0]["hosts"][3], hostile);
  EXPECT_EQ(run["measured"]["ranks"][3]["label"], hostile);
}

TEST(Page, ALayoutThatMakesNoPlanIsSaidNotFatal) {
  const RunFolderFixture folder;
  std::string starts = RunFolderFixture::starts();
  for (std::size_t at = 0; (at = starts.find("\"ranks\":4")) != std::string::npos;) starts[at + 8] = '5';
  testing::write_bytes(folder.path() / "logs" / "starts.jsonl", starts);
  const nlohmann::json run = island_of(report_page({.runs = {folder.path()}, .trace = {}, .cluster = {}}))["runs"][0];
  EXPECT_FALSE(run.contains("layout"));
  EXPECT_NE(run["layout_problem"].get<std::string>().find("5 ranks"), std::string::npos) << run["layout_problem"];
}

TEST(PageInABrowser, DrawsEverythingAndAnswers) {
  const RunFolderFixture folder;
  const RunFolderFixture other("other");
  // Whatever can be used is used once; an exception anywhere ends up on the console.
  const std::string script = R"(
    addEventListener("load", () => {
      for (const b of document.querySelectorAll("button")) { b.click(); b.click(); }
      const range = document.querySelector("input[type=range]");
      range.value = 60;
      range.dispatchEvent(new Event("input"));
      for (const plot of document.querySelectorAll("svg.plot")) {
        const box = plot.getBoundingClientRect();
        plot.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + box.width / 2, clientY: box.top + 50 }));
        plot.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
      }
      document.body.dataset.tooltip = document.getElementById("tooltip").textContent;
      for (const span of document.querySelectorAll(".timeline rect[data-span]"))
        span.dispatchEvent(new PointerEvent("pointermove", { bubbles: true, clientX: 5, clientY: 5 }));
      document.body.dataset.span = document.getElementById("tooltip").textContent;
      document.body.dataset.wide = document.documentElement.scrollWidth > innerWidth;
      document.body.dataset.done = "yes";
    });)";
  for (const bool several : {false, true}) {
    SCOPED_TRACE(several ? "two runs" : "one run");
    ReportOptions options;
    options.runs = {folder.path()};
    if (several) options.runs.push_back(other.path());
    const auto browsed = browse(folder, report_page(options), script);
    if (!browsed) GTEST_SKIP() << "no browser is installed";
    EXPECT_EQ(browsed->console, "");
    const std::string& page = browsed->document;
    EXPECT_NE(page.find("data-done=\"yes\""), std::string::npos);
    EXPECT_NE(page.find("data-wide=\"false\""), std::string::npos);
    for (const char* title :
         {"Loss", "Bits per byte", "Learning rate", "Gradient norm", "Throughput", "Where the ranks' time goes",
          "A step as the schedule predicts it", "A step as it was measured", "Checkpoints", "Configuration"}) {
      EXPECT_NE(page.find(title), std::string::npos) << title;
    }
    EXPECT_NE(page.find("class=\"restart\""), std::string::npos);
    EXPECT_NE(page.find("class=\"skipped\""), std::string::npos);
    EXPECT_NE(page.find("data-tooltip=\"step "), std::string::npos);
    EXPECT_NE(page.find("data-span=\"wait for ranks"), std::string::npos);
    EXPECT_EQ(count(page, "class=\"plot\""), 7U);
    EXPECT_EQ(count(page, "[object"), 0U);
    EXPECT_EQ(count(page, "NaN"), 0U);
  }
}

}  // namespace
}  // namespace photon
