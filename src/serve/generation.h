#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "api/openai.h"
#include "engine/engine.h"
#include "net/http_server.h"
#include "serve/desk.h"
#include "serve/live_request.h"
#include "serve/routing_wishes.h"
#include "serve/served_model.h"
#include "text/detokenizer.h"
#include "text/output_parser.h"
#include "text/stop_matcher.h"

namespace penstock::serve {

/// One answer a client waits for, with its n choices, from admission to the last byte. It owns
/// all the request holds: the admission permit, the places at workers, the legs at the engines. Its
/// destruction (answer sent, client gone, deadline, shutdown) releases every one of them.
/// Loop thread only.
class Generation final : public LiveRequest {
 public:
  /// What differs between chat and completions.
  enum class Kind : std::uint8_t { kChat, kCompletion };

  struct Plan {
    Kind kind = Kind::kChat;
    api::AnswerHead head;
    bool stream = false;
    bool include_usage = false;
    bool logprobs = false;
    bool return_token_ids = false;
    std::vector<std::string> stops;
    text::AnswerFormat format;
    TimePoint arrived;
    RoutingWishes wishes;
    std::uint32_t choices = 1;                  // of each prompt
    Nanos kv_lease = std::chrono::seconds(30);  // engine::GenerateRequest::kv_lease
    std::string traceparent;                    // engine::GenerateRequest::traceparent
  };

  Generation(Desk& desk, ServedModel& model, Permit permit, Plan plan);
  ~Generation() override;

  /// Starts one choice at a worker. `echo` is shown before its text. On an error nothing of this
  /// choice runs; the caller answers with it and drops the generation.
  /// The prompt's tokens count in the usage only for the `first_of_prompt`, and are kept to be
  /// shown with it: the choices that follow, up to the next first one, share them.
  Result<void> add_choice(engine::GenerateRequest request, bool first_of_prompt,
                          std::string echo = {});

  void prefetch() const noexcept;          // tells the CPU that it will be needed
  void prefetch_choices() const noexcept;  // and what it points to, once prefetch() has come true
  void take(engine::Output& output);       // one output of one of the legs
  /// Gives what take() made to the exchange; false: it was the end, and this is gone.
  bool write(TimePoint now);
  void flush(TimePoint now);           // sends what was written, and what is held if there is room
  bool sweep(TimePoint now) override;  // and heartbeats
  void on_writable() override;

  [[nodiscard]] std::string describe(TimePoint now) const override;

 private:
  /// What every token touches comes first.
  struct Choice {
    RequestId leg;
    std::unique_ptr<engine::GenerateRequest> again;  // until its first token, for another worker
    // Of one whose prompt is computed at another worker than the answer: until that is done.
    std::unique_ptr<engine::GenerateRequest> answer;
    engine::Usage usage;
    std::optional<std::uint32_t> prompt_cached;  // tokens, as found where the prompt was computed
    std::uint32_t completion_tokens = 0;
    std::uint32_t tokens_shown = 0;  // of them, by last_token
    TimePoint last_token{};
    bool first_of_prompt = true;
    bool admitted = false;  // by a worker, and counted
    bool opened = false;    // the first event of this choice was written
    bool ended = false;
    text::Detokenizer detokenizer;
    text::StopMatcher stops{{}};
    std::unique_ptr<text::OutputParser> parser;  // null: all is content
    std::list<engine::Output> held;              // while the client does not read
    std::string text;  // not shown yet (stream) or all of it (whole answer)
    std::vector<api::TokenLogprob> logprobs;
    std::vector<Token> token_ids;
    Assignment place;
    Assignment kv_at;              // where its prompt's KV is kept, until its first token
    RequestId kv_leg;              // whose lease keeps it there
    std::uint32_t kv_tokens = 0;   // that it keeps
    bool handed_over = false;      // to who answers, and counted
    std::vector<kv::Slot> tried;   // workers that have lost or refused it
    std::uint32_t characters = 0;  // of the tokens whose logprobs were shown, for their offsets
    const std::vector<Token>* prompt = nullptr;  // to be shown; in prompts_
    std::string reasoning;
    std::vector<api::ToolCall> tool_calls;
    std::string finish_reason;
  };

  void note_progress(Choice& choice, const engine::Output& output);
  void note_admitted(Choice& choice, const engine::Usage& usage);
  void process(Choice& choice, engine::Output& output);
  void take_text(Choice& choice, std::string_view text);
  void take_delta(Choice& choice, text::AnswerDelta& delta);
  void end_choice(Choice& choice, std::string_view finish_reason);
  void note_token(Choice& choice, const engine::Output& output);
  api::TokenLogprob logprob_of(const engine::Output& output) const;
  void write_open(Choice& choice);
  void write_content(Choice& choice);
  void open_stream();
  void complete();  // destroys this
  void send(const Error& error) override;
  void release_leg(Choice& choice);
  bool process_held();
  [[nodiscard]] api::UsageCounts usage() const override;
  [[nodiscard]] bool all_ended() const;
  void note_shown(TimePoint now);

  /// What is formatted in one go, and hardly more, so that the unsent bytes stay bounded however
  /// many tokens come at once.
  static constexpr std::size_t kEventsBytesMax = 128 * 1024;

  /// What is held for a client that does not read, of all choices: some 400,000 tokens. Whoever has
  /// more to read counts as gone.
  static constexpr std::size_t kHeldBytesMax = std::size_t{64} << 20;

  /// Workers that a request is given to at most, as long as each is lost or full before its first
  /// token.
  static constexpr unsigned kWorkersTried = 3;

  enum class Part : std::uint8_t { kFirstOfPrompt, kTwin, kWhole, kAnswer };
  Result<Assignment> place(const engine::GenerateRequest& request, Part part,
                           const Choice* choice = nullptr, bool only_others = false);
  Result<void> give(Choice& choice, engine::GenerateRequest request);
  bool give_to_another(Choice& choice, Code why);
  void log_moved(const Choice& choice, std::string_view how);
  [[nodiscard]] bool another_may_take(const Choice& choice);
  void leave_hanging_workers();
  Result<void> give_whole(Choice& choice);
  void prompt_ended(Choice& choice, const engine::Output& output);
  Result<void> give_answer(Choice& choice, const engine::Output& prompt);
  Result<void> give_at(Choice& choice, engine::GenerateRequest request, Part part);
  static void release_kv(Choice& choice);
  [[nodiscard]] Error late() const;

  ServedModel& model_;
  Plan plan_;
  std::list<std::vector<Token>> prompts_;  // to be shown, each once
  std::vector<Choice> choices_;
  PromptBlocks blocks_;  // of the prompt whose choices are being added
  std::optional<api::ChatStreamWriter> chat_writer_;
  std::optional<api::CompletionStreamWriter> completion_writer_;
  std::string out_;  // events on their way
  std::vector<text::AnswerDelta> deltas_;
  std::string characters_;
  std::string certain_;
  std::optional<Error> error_;  // what ended a leg against its will
  std::size_t held_bytes_ = 0;  // of all choices, about
  TimePoint last_write_{};
  bool began_ = false;      // the first token of all was shown
  bool streaming_ = false;  // the response head is out
  bool written_ = false;    // to the exchange, and not flushed
  bool touched_ = false;    // on the desk's list for this round

  friend class Desk;
};

}  // namespace penstock::serve
