#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace penstock::api {

enum class JsonType : std::uint8_t { kObject, kArray, kString, kNumber, kBool, kNull };

/// A cursor that walks one JSON object, forward only, over simdjson On-Demand. It knows where it
/// stands, so an error names the place as the client wrote it ("messages[2].content").
///
/// The first failure wins and is final: from then on next_field() and next_element() return false,
/// so loops end by themselves and only the outermost caller asks ok().
///
/// Everything is validated, also what nobody reads: a value left unread is walked when the cursor
/// moves on. Nesting is held to kJsonDepthMax.
///
/// Thread: any, but one reader a thread at a time (they share the thread's simdjson buffers, which
/// are given back after a body above kKeptBodyBytesMax). Views handed out live as long as the
/// reader and the body.
class JsonReader final {
 public:
  static constexpr std::size_t kKeptBodyBytesMax = 1 << 20;
  static constexpr std::size_t kEchoBytesMax = 60;  // of a client's value or key in an error

  /// Opens the top-level object of `body`, which 64 readable bytes must follow.
  explicit JsonReader(std::string_view body);
  ~JsonReader();
  JsonReader(const JsonReader&) = delete;
  JsonReader& operator=(const JsonReader&) = delete;

  [[nodiscard]] bool ok() const noexcept;
  [[nodiscard]] Error take_error();

  // ---- moving ----

  /// Steps to the next member of the object entered last; false, and out of it, after the last one.
  bool next_field(std::string_view& key);
  /// The same for arrays.
  bool next_element();
  /// Position of the current element in the array entered last.
  [[nodiscard]] std::size_t index() const noexcept;

  // ---- the value under the cursor; ask only after next_field() or next_element() said true ----

  [[nodiscard]] JsonType type() const noexcept;
  void enter_object();        // only when type() is kObject
  void enter_array();         // only when type() is kArray
  std::string_view string();  // unescaped; once a value, only for kString
  [[nodiscard]] std::string_view token() const noexcept;  // as written; for kNumber and kBool
  std::string_view raw();                                 // the whole value as written, validated

  // ---- failing; all of them return false ----

  /// "PATH: TEXT" about the value under the cursor.
  bool fail(std::string_view text, Code code = Code::kInvalidArgument);
  /// The same about something inside it or, after its last member, inside the object just left:
  /// `suffix` is "name" or "[3].name".
  bool fail_below(std::string_view suffix, std::string_view text,
                  Code code = Code::kInvalidArgument);
  /// "PATH: expected WHAT, got VALUE", the value cut to kEchoBytesMax.
  bool expected(std::string_view what);
  /// The same for what may hold a prompt: tells the value's type only.
  bool expected_unseen(std::string_view what);

 private:
  struct State;
  static State& thread_state();

  void open(std::string_view body);
  bool push_level();    // before going into the value under the cursor
  bool leave_level();   // after a container's last member; returns false
  bool classify();      // looks at the value that the cursor has just come to
  void finish_value();  // walks what the caller left unread
  bool syntax(std::string_view what, std::size_t offset);
  bool syntax_here(std::string_view what);
  bool set_error(Code code, std::string message, std::string param);
  [[nodiscard]] std::string path() const;

  State& state_;
};

/// At most kEchoBytesMax bytes of a client's text, cut at a character and marked, with control
/// characters shown as '?'.
[[nodiscard]] std::string shorten(std::string_view text);

}  // namespace penstock::api
