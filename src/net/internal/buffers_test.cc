#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>

#include "net/internal/answer_head.h"
#include "net/internal/input_buffer.h"
#include "net/internal/output_queue.h"

namespace penstock::net {
namespace {

// A random walk of receiving and taking must keep every byte, in order, within the limit.
TEST(InputBufferTest, KeepsBytesInOrderWithinItsLimit) {
  std::mt19937 random(1);
  constexpr std::size_t kPeriod = 251;  // of the bytes that go through
  std::string pattern(kPeriod + 32768, '\0');
  for (std::size_t i = 0; i < pattern.size(); ++i) pattern[i] = static_cast<char>(i % kPeriod);
  const std::string_view bytes = pattern;
  for (const std::size_t limit : {4096U, 5000U, 32768U}) {
    InputBuffer buffer;
    std::size_t next_in = 0;
    std::size_t next_out = 0;
    bool was_full = false;
    for (int step = 0; step < 20000; ++step) {
      const std::span<char> space = buffer.space(limit, random() % 2 ? 4096 : limit);
      ASSERT_LE(buffer.data().size() + space.size(), limit);
      ASSERT_EQ(space.empty(), buffer.data().size() == limit);
      was_full |= space.empty();
      const std::size_t taken_first = random() % (buffer.data().size() + 1);
      // Taking while a receive is under way must not move the space.
      ASSERT_EQ(buffer.data().substr(0, taken_first), bytes.substr(next_out, taken_first));
      if (random() % 3 == 0) {
        buffer.consume(taken_first);
        next_out = (next_out + taken_first) % kPeriod;
      }
      const std::size_t received = space.empty() ? 0 : random() % (space.size() + 1);
      std::ranges::copy(bytes.substr(next_in, received), space.begin());
      next_in = (next_in + received) % kPeriod;
      buffer.commit(received);
    }
    EXPECT_TRUE(was_full);
  }
}

TEST(InputBufferTest, GivesTheHeapBackOnceEmpty) {
  InputBuffer buffer;
  for (int i = 0; i < 3; ++i) {
    const auto space = buffer.space(32768);
    ASSERT_FALSE(space.empty());
    buffer.commit(space.size());
  }
  ASSERT_GT(buffer.data().size(), InputBuffer::kInlineBytes);
  buffer.consume(buffer.data().size());
  const auto space = buffer.space(32768);
  const char* const self = reinterpret_cast<const char*>(&buffer);
  EXPECT_TRUE(space.data() >= self && space.data() < self + sizeof buffer);
}

TEST(OutputQueueTest, HandsOutWhatWentInHoweverItIsSent) {
  std::mt19937 random(1);
  OutputQueue queue;
  std::string expected;
  std::string sent;
  for (int step = 0; step < 20000; ++step) {
    if (random() % 2 == 0) {
      const std::string bytes(random() % 300, static_cast<char>('a' + random() % 26));
      queue.append(bytes);
      expected += bytes;
    } else {
      const std::size_t size = random() % (queue.size() + 1);
      sent += queue.unsent().substr(0, size);
      queue.sent(size);
    }
    ASSERT_EQ(queue.size(), expected.size() - sent.size());
    // NOLINTNEXTLINE(readability-container-size-empty): that the two agree is the test
    ASSERT_EQ(queue.empty(), queue.size() == 0);
  }
  sent += queue.unsent();
  EXPECT_EQ(sent, expected);
}

TEST(ChunkSizeLineTest, IsTheSizeInHexadecimal) {
  EXPECT_EQ(ChunkSizeLine(0).text(), "0\r\n");
  EXPECT_EQ(ChunkSizeLine(10).text(), "a\r\n");
  EXPECT_EQ(ChunkSizeLine(0x1f40).text(), "1f40\r\n");
  EXPECT_EQ(ChunkSizeLine(~std::size_t{0}).text(), "ffffffffffffffff\r\n");
}

TEST(AnswerHeadTest, NoValueStartsALineOfItsOwn) {
  const HttpHeader bad[] = {{"X-Id", "a\r\nSet-Cookie: b\n\x01"}, {"X\r\nY", "c"}};
  std::string out;
  append_head(out, {.content_type = "text/plain\r\n\r\nbody", .content_length = 3, .headers = bad});
  EXPECT_EQ(out,
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain    body\r\n"
            "X-Id: a  Set-Cookie: b  \r\nX  Y: c\r\nContent-Length: 3\r\n\r\n");
}

TEST(AnswerHeadTest, AnswersWithoutBodyTellNoLength) {
  for (const int status : {204, 304}) {
    std::string out;
    append_head(out, {.status = status, .content_length = 0});
    EXPECT_EQ(out.find("Content-Length"), std::string::npos) << out;
  }
}

}  // namespace
}  // namespace penstock::net
