#include "sim/generators.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <numbers>
#include <numeric>
#include <string>
#include <vector>

#include "base/rng.h"

namespace penstock::sim {
namespace {

struct Setting {
  std::string_view name;
  double value;  // the default, then what was given
  double min;
  double max;
};

/// A generator's settings, by name.
class Settings final {
 public:
  explicit Settings(std::vector<Setting> settings) : settings_(std::move(settings)) {}

  Result<void> read(std::string_view spec) {
    while (!spec.empty()) {
      const std::size_t end = std::min(spec.find(','), spec.size());
      const std::string_view pair = spec.substr(0, end);
      spec.remove_prefix(std::min(end + 1, spec.size()));
      const Result<void> read = read_one(pair);
      if (!read) return read;
    }
    return {};
  }
  [[nodiscard]] double operator[](std::string_view name) const {
    return std::ranges::find(settings_, name, &Setting::name)->value;
  }
  [[nodiscard]] std::uint64_t count(std::string_view name) const {
    return static_cast<std::uint64_t>((*this)[name]);
  }

 private:
  Result<void> read_one(std::string_view pair) {
    const std::size_t equals = pair.find('=');
    const auto found = std::ranges::find(settings_, pair.substr(0, equals), &Setting::name);
    if (equals == std::string_view::npos || found == settings_.end()) {
      std::string known;
      for (const Setting& s : settings_) known += fmt::format(" {}={:g}", s.name, s.value);
      return invalid(fmt::format("no setting '{}'; there are:{}", pair, known));
    }
    const std::string_view text = pair.substr(equals + 1);
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() ||
        !(value >= found->min && value <= found->max)) {
      return invalid(fmt::format("{}: expected a number from {:g} to {:g}", found->name, found->min,
                                 found->max));
    }
    found->value = value;
    return {};
  }

  std::vector<Setting> settings_;
};

constexpr double kCountMax = 1e7;
constexpr double kTokensMax = TraceBuilder::kTokensMax;

/// Blocks such that both lengths are whole ones, so that exactly the shared part is shared.
std::uint32_t common_block(std::uint64_t a, std::uint64_t b) {
  return static_cast<std::uint32_t>(std::clamp<std::uint64_t>(std::gcd(a, b), 1, 1 << 20));
}

/// A prompt made of parts, each with an identity of its own.
class Prompt final {
 public:
  explicit Prompt(std::uint32_t block_tokens) : block_tokens_(block_tokens) {}
  void clear() {
    ids_.clear();
    tokens_ = 0;
  }
  /// `tokens` is a multiple of the block, but for the last part.
  void add(std::uint64_t content, std::uint64_t tokens) {
    const std::uint64_t blocks = (tokens + block_tokens_ - 1) / block_tokens_;
    for (std::uint64_t i = 0; i < blocks; ++i) ids_.push_back(mix64(content + 1) + i);
    tokens_ += tokens;
  }
  Result<void> put(TraceBuilder& builder, Nanos at, std::uint64_t output_tokens) const {
    return builder.add(at, tokens_, output_tokens, ids_);
  }

 private:
  std::uint32_t block_tokens_;
  std::vector<std::uint64_t> ids_;
  std::uint64_t tokens_ = 0;
};

struct Step {
  double rate_per_s;
  double duration_s;
};

/// Poisson arrivals in steps of constant rate.
std::vector<double> arrivals(std::span<const Step> steps, std::size_t requests_max, Rng& rng) {
  std::vector<double> times;
  double begin = 0;
  for (const Step& step : steps) {
    double at = begin + rng.exponential(1 / step.rate_per_s);
    for (; at < begin + step.duration_s && times.size() < requests_max;
         at += rng.exponential(1 / step.rate_per_s)) {
      times.push_back(at);
    }
    begin += step.duration_s;
  }
  return times;
}

std::vector<double> poisson(double rate_per_s, std::size_t requests, Rng& rng) {
  std::vector<double> times;
  for (double at = 0; times.size() < requests; at += rng.exponential(1 / rate_per_s)) {
    times.push_back(at);
  }
  return times;
}

/// Prompts of a group's system prompt and a user's question, drawn anew for each arrival.
Result<Trace> shared_prompts(const Settings& s, std::span<const double> times, Rng& rng) {
  const std::uint64_t system = s.count("system");
  const std::uint64_t question = s.count("question");
  const std::uint32_t block = common_block(system, question);
  TraceBuilder builder(block);
  Prompt prompt(block);
  for (const double at : times) {
    const std::uint64_t group = rng.below(static_cast<std::uint32_t>(s.count("groups")));
    const std::uint64_t user = rng.below(static_cast<std::uint32_t>(s.count("users")));
    prompt.clear();
    prompt.add(group << 32, system);
    prompt.add(group << 32 | (user + 1), question);
    const Result<void> put = prompt.put(builder, from_seconds(at), s.count("output"));
    if (!put) return std::unexpected(put.error());
  }
  return std::move(builder).finish();
}

std::vector<Setting> shared_settings() {
  return {{"groups", 150, 1, kCountMax},   {"users", 5, 1, kCountMax},
          {"system", 6000, 1, kTokensMax}, {"question", 1200, 1, kTokensMax},
          {"output", 1000, 1, kTokensMax}, {"rate", 20, 1e-3, 1e6},
          {"requests", 2000, 1, 2e7}};
}

Result<Trace> shared_prefix(Settings& s, Rng& rng, std::size_t requests_max) {
  return shared_prompts(s, poisson(s["rate"], std::min(s.count("requests"), requests_max), rng),
                        rng);
}

/// llm-d's benchmark: the groups of shared_settings() under a ladder of rates after a warm-up.
Result<Trace> ladder(Settings& s, Rng& rng, std::size_t requests_max) {
  static constexpr Step kLadder[] = {{15, 50}, {3, 20},  {10, 20}, {15, 20}, {20, 38}, {22, 34},
                                     {25, 30}, {30, 25}, {35, 21}, {40, 38}, {43, 36}, {46, 33},
                                     {49, 30}, {52, 29}, {55, 27}, {57, 26}, {60, 25}};
  std::vector<Step> steps(std::begin(kLadder), std::end(kLadder));
  for (Step& step : steps) step.rate_per_s *= s["scale"];
  return shared_prompts(s, arrivals(steps, requests_max, rng), rng);
}

/// smg#1771: prompts that begin with one of a number of prefixes and go on in their own way.
Result<Trace> prefix_repetition(Settings& s, Rng& rng, std::size_t requests_max) {
  const std::uint32_t block = common_block(s.count("prefix"), s.count("suffix"));
  TraceBuilder builder(block);
  Prompt prompt(block);
  std::uint64_t own = std::uint64_t{1} << 40;
  const auto prefixes = static_cast<std::uint32_t>(s.count("prefixes"));
  for (const double at : poisson(s["rate"], std::min(s.count("requests"), requests_max), rng)) {
    prompt.clear();
    prompt.add(rng.below(prefixes), s.count("prefix"));
    prompt.add(own++, s.count("suffix"));
    const Result<void> put = prompt.put(builder, from_seconds(at), s.count("output"));
    if (!put) return std::unexpected(put.error());
  }
  return std::move(builder).finish();
}

/// Families of requests that share a prefix nobody has seen before, and come almost at once.
Result<Trace> siblings(Settings& s, Rng& rng, std::size_t requests_max) {
  const std::uint32_t block = common_block(s.count("prefix"), s.count("suffix"));
  TraceBuilder builder(block);
  Prompt prompt(block);
  const std::uint64_t requests = std::min<std::uint64_t>(s.count("requests"), requests_max);
  double at = 0;
  for (std::uint64_t family = 0; builder.size() < requests; ++family) {
    for (std::uint64_t i = 0; i < s.count("size") && builder.size() < requests; ++i) {
      prompt.clear();
      prompt.add(family << 32, s.count("prefix"));
      prompt.add(family << 32 | (i + 1), s.count("suffix"));
      const double when = at + s["within"] * rng.fraction();
      const Result<void> put = prompt.put(builder, from_seconds(when), s.count("output"));
      if (!put) return std::unexpected(put.error());
    }
    at += rng.exponential(1 / s["rate"]);
  }
  return std::move(builder).finish();
}

/// Sessions whose prompts grow by a turn's answer and tool output; each turn waits for the one
/// before as its own gap says (open loop: it does not wait for the answer).
Result<Trace> agentic(Settings& s, Rng& rng, std::size_t requests_max) {
  constexpr std::uint32_t kBlock = 64;
  TraceBuilder builder(kBlock);
  const std::uint64_t sessions = s.count("sessions");
  double start = 0;
  for (std::uint64_t session = 0; session < sessions; ++session) {
    start += rng.exponential(s["spread"]);
    double at = start;
    auto tokens = static_cast<std::uint64_t>(s["start"] * (0.5 + rng.fraction()));
    const auto turns = static_cast<std::uint64_t>(1 + rng.exponential(s["turns"]));
    std::vector<std::uint64_t> ids;
    for (std::uint64_t turn = 0; turn < turns && builder.size() < requests_max; ++turn) {
      while (ids.size() * kBlock < tokens) {
        const bool common = ids.size() * kBlock < s["common"];
        ids.push_back(common ? ids.size() : mix64(session + 1) + ids.size());
      }
      const auto output = static_cast<std::uint64_t>(1 + rng.exponential(s["output"]));
      const Result<void> put =
          builder.add(from_seconds(at), std::max<std::uint64_t>(tokens, 1), output, ids);
      if (!put) return std::unexpected(put.error());
      tokens += 1 + static_cast<std::uint64_t>(rng.exponential(s["growth"]));
      tokens = std::min<std::uint64_t>(tokens, static_cast<std::uint64_t>(s["longest"]));
      at += 0.5 + rng.exponential(s["gap"]);
    }
  }
  return std::move(builder).finish();
}

Result<Trace> unique_prompts(const Settings& s, std::span<const double> times, Rng& rng) {
  TraceBuilder builder(512);
  for (const double at : times) {
    const auto input = static_cast<std::uint64_t>(1 + rng.exponential(s["input"]));
    const auto output = static_cast<std::uint64_t>(1 + rng.exponential(s["output"]));
    const Result<void> put =
        builder.add_unique(from_seconds(at), std::min<std::uint64_t>(input, 100'000), output);
    if (!put) return std::unexpected(put.error());
  }
  return std::move(builder).finish();
}

Result<Trace> steady(Settings& s, Rng& rng, std::size_t requests_max) {
  return unique_prompts(s, poisson(s["rate"], std::min(s.count("requests"), requests_max), rng),
                        rng);
}

Result<Trace> bursts(Settings& s, Rng& rng, std::size_t requests_max) {
  const std::uint64_t requests = std::min<std::uint64_t>(s.count("requests"), requests_max);
  std::vector<double> times;
  for (double at = 0; times.size() < requests; at += s["every"]) {
    for (std::uint64_t i = 0; i < s.count("size") && times.size() < requests; ++i) {
      times.push_back(at);
    }
  }
  return unique_prompts(s, times, rng);
}

/// Thinned Poisson arrivals whose rate swings between 0 and twice its mean.
Result<Trace> sine(Settings& s, Rng& rng, std::size_t requests_max) {
  const std::uint64_t requests = std::min<std::uint64_t>(s.count("requests"), requests_max);
  std::vector<double> times;
  for (double at = 0; times.size() < requests; at += rng.exponential(0.5 / s["rate"])) {
    const double wave = std::sin(2 * std::numbers::pi * at / s["period"]);
    if (rng.fraction() < (1 + wave) / 2) times.push_back(at);
  }
  return unique_prompts(s, times, rng);
}

std::vector<Setting> plain_settings() {
  return {{"rate", 5, 1e-3, 1e6},
          {"input", 4000, 1, 1e6},
          {"output", 300, 1, 1e6},
          {"requests", 2000, 1, 2e7}};
}

std::vector<Setting> with(std::vector<Setting> settings, std::vector<Setting> more) {
  settings.insert(settings.end(), more.begin(), more.end());
  return settings;
}

struct Generator {
  GeneratorEntry entry;
  std::vector<Setting> (*settings)();
  Result<Trace> (*make)(Settings&, Rng&, std::size_t);
};

constexpr Generator kGenerators[] = {
    {{"shared-prefix",
      "groups that share a system prompt; users of a group differ in the question"},
     shared_settings,
     shared_prefix},
    {{"llm-d-ladder", "the same under llm-d's ladder of rates, 3 to 60 requests/s"},
     [] { return with(shared_settings(), {{"scale", 1, 1e-3, 1e3}}); },
     ladder},
    {{"prefix-repetition", "one of many prefixes, then a suffix of its own (smg#1771)"},
     [] {
       return std::vector<Setting>{{"prefixes", 600, 1, kCountMax}, {"prefix", 1024, 1, kTokensMax},
                                   {"suffix", 128, 1, kTokensMax},  {"output", 128, 1, kTokensMax},
                                   {"rate", 32, 1e-3, 1e6},         {"requests", 1800, 1, 2e7}};
     },
     prefix_repetition},
    {{"siblings", "families that share a new prefix and come almost at once"},
     [] {
       return std::vector<Setting>{{"rate", 4, 1e-3, 1e6},         {"size", 4, 1, 1e5},
                                   {"within", 0.05, 0, 1e5},       {"prefix", 8192, 1, kTokensMax},
                                   {"suffix", 256, 1, kTokensMax}, {"output", 200, 1, kTokensMax},
                                   {"requests", 2000, 1, 2e7}};
     },
     siblings},
    {{"agentic", "sessions that grow turn by turn behind a common beginning"},
     [] {
       return std::vector<Setting>{
           {"sessions", 100, 1, kCountMax}, {"spread", 5, 0, 1e6},    {"turns", 20, 0, 1e5},
           {"start", 8000, 1, 1e6},         {"common", 4000, 0, 1e6}, {"growth", 632, 0, 1e6},
           {"output", 317, 0, 1e6},         {"gap", 5, 0, 1e6},       {"longest", 1e5, 64, 1e6}};
     },
     agentic},
    {{"poisson", "prompts that share nothing, at random moments"}, plain_settings, steady},
    {{"bursts", "prompts that share nothing, many at once"},
     [] { return with(plain_settings(), {{"size", 16, 1, 1e5}, {"every", 3, 1e-3, 1e5}}); },
     bursts},
    {{"sine", "prompts that share nothing, at a rate that swings"},
     [] { return with(plain_settings(), {{"period", 300, 1, 1e6}}); },
     sine},
};

const Generator* find(std::string_view spec) noexcept {
  const std::string_view name = spec.substr(0, spec.find(':'));
  for (const Generator& generator : kGenerators) {
    if (generator.entry.name == name) return &generator;
  }
  return nullptr;
}

}  // namespace

std::span<const GeneratorEntry> generators() noexcept {
  static const std::vector<GeneratorEntry> entries = [] {
    std::vector<GeneratorEntry> all;
    for (const Generator& generator : kGenerators) all.push_back(generator.entry);
    return all;
  }();
  return entries;
}

bool is_generator(std::string_view spec) noexcept { return find(spec) != nullptr; }

Result<Trace> generate(std::string_view spec, std::uint64_t seed, std::size_t requests_max) {
  const Generator* generator = find(spec);
  if (generator == nullptr) return invalid(fmt::format("there is no generator {}", spec));
  Settings settings(generator->settings());
  const std::size_t colon = spec.find(':');
  if (colon != std::string_view::npos) {
    const Result<void> read = settings.read(spec.substr(colon + 1));
    if (!read) {
      return invalid(fmt::format("{}: {}", generator->entry.name, read.error().message));
    }
  }
  Rng rng(mix64(seed + 1));
  Result<Trace> made = generator->make(settings, rng, requests_max);
  if (made) sort_by_arrival(*made);
  return made;
}

}  // namespace penstock::sim
