#include "transfer/internal/tcp_path.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "base/check.h"
#include "transfer/checksum.h"

namespace penstock::transfer {
namespace {

constexpr auto kConnectWithin = std::chrono::seconds(2);
constexpr std::uint64_t kChunkBytes = 1 << 20;   // of a request
constexpr std::size_t kRequestsMax = 4;          // under way on a connection: it never runs dry
constexpr std::size_t kReceiveBytes = 64 << 10;  // of one call: stays in the core's own cache
static_assert(kReceiveBytes % CopySum::kStepBytes == 0);
constexpr int kHangUpsMax = 10;
constexpr auto kHangUpPause = std::chrono::milliseconds(5);
constexpr int kFailuresMax = 2;  // connections that one chunk may see break

bool is_refusal(BlockStatus status) noexcept {
  return status == BlockStatus::kStale || status == BlockStatus::kTruncated ||
         status == BlockStatus::kOutOfRange || status == BlockStatus::kRevoked;
}

}  // namespace

Result<std::unique_ptr<TcpLink>> TcpLink::connect(const PeerAddress& address,
                                                  const std::function<bool()>& stop) {
  const auto key = wire::compatibility(address.compatibility);
  if (!key) return std::unexpected(key.error());
  const auto nonce = wire::draw_nonce();
  if (!nonce) return std::unexpected(nonce.error());
  const TimePoint start = std::chrono::steady_clock::now();
  const auto over = [&] {
    return stop() || std::chrono::steady_clock::now() - start > kConnectWithin;
  };
  auto socket = connect_tcp(address.tcp_host, address.tcp_port, over);
  if (!socket) return std::unexpected(socket.error());
  wire::Challenge challenge;
  if (!receive_object(socket->get(), challenge, over)) {
    return over() ? fail(Code::kDeadlineExceeded, "the owner does not answer")
                  : fail(Code::kOverloaded, "the owner has as many readers as it takes, or ends");
  }
  if (challenge.magic != wire::kMagic || challenge.version != wire::kVersion) {
    return std::unexpected(wire::refusal({}));
  }
  wire::Response response;
  response.nonce = *nonce;
  response.compatibility = *key;
  response.proof = wire::reader_proof(address.secret, challenge, response);
  wire::Verdict verdict;
  if (!send_object(socket->get(), response, over) ||
      !receive_object(socket->get(), verdict, over)) {
    return over() ? fail(Code::kDeadlineExceeded, "the owner does not answer")
                  : fail(Code::kOverloaded, "the owner hung up");
  }
  if (verdict.answer != wire::Answer::kWelcome) {
    return std::unexpected(wire::refusal(verdict.answer));
  }
  if (!wire::equal(verdict.proof,
                   wire::owner_proof(address.secret, challenge, response, verdict))) {
    return std::unexpected(wire::refusal(wire::Answer::kNotAllowed));
  }
  if (auto ok = verdict.offer.layout.validate(UINT64_MAX / 2); !ok) {
    return std::unexpected(ok.error());
  }
  return std::unique_ptr<TcpLink>(new TcpLink(std::move(*socket), verdict.offer));
}

/// One connection and what is under way on it.
class TcpPath::Stream final {
 public:
  Stream(TcpPath& path, std::unique_ptr<TcpLink> link) : path_(path), link_(std::move(link)) {
    for (auto* list : {&blocks_, &coming_, &take_}) list->reserve(wire::kBlocksMax);
    answers_.resize(wire::kBlocksMax);
    under_way_.reserve(kRequestsMax);
    pieces_.reserve(2);
  }
  void work();

 private:
  struct UnderWay {
    Chunk chunk;
    int failures = 0;
  };
  bool ask(const Chunk& chunk);
  bool take_answer(const Chunk& chunk);
  bool receive_blocks(const Chunk& chunk);
  [[nodiscard]] std::size_t receive_more(std::size_t bytes);
  struct Part {
    std::uint32_t of;    // place in `blocks_`
    std::uint32_t part;  // of that block
  };
  [[nodiscard]] Part coming_part(const Chunk& chunk, std::size_t at) const;
  void begin_part(const Chunk& chunk, std::size_t at);
  void verify_part(const Chunk& chunk, std::size_t at);
  void judge_block(const Chunk& chunk, std::uint32_t i);
  void commit(const Chunk& chunk, std::size_t first, std::size_t end);
  void finish(const Chunk& chunk);
  void settle_front();
  bool settle_ended();
  void settle_queued();
  bool is_given_up();
  void begin_anew();
  Result<std::unique_ptr<TcpLink>> connect_again();
  void fail_all(BlockStatus status);
  [[nodiscard]] BlockStatus verdict(const Chunk& chunk) const;
  [[nodiscard]] bool admit(const Chunk& chunk, std::uint32_t block) const;

  TcpPath& path_;
  std::unique_ptr<TcpLink> link_;      // null: to be made
  std::vector<UnderWay> under_way_;    // oldest first, at most kRequestsMax
  std::vector<std::uint32_t> blocks_;  // of the answer being received: those it is about
  std::vector<std::uint32_t> coming_;  // of those, as places in `blocks_`: what the owner sends
  std::optional<CopySum> copy_;        // of the part that is coming
  bool sums_match_ = true;             // of the block whose parts are coming
  std::vector<std::uint32_t> take_;
  std::vector<wire::BlockAnswer> answers_;
  std::vector<Checksum> checksums_;
  wire::Pieces pieces_;
  std::array<std::byte, kReceiveBytes> received_;
  Ticks ticks_;
};

BlockStatus TcpPath::Stream::verdict(const Chunk& chunk) const {
  if (path_.gone_.load(std::memory_order_relaxed)) return BlockStatus::kPeerDead;
  return chunk.verdict(path_.clock_.now());
}

bool TcpPath::Stream::admit(const Chunk& chunk, std::uint32_t block) const {
  const Pull& pull = chunk.pull();
  return pull.take[block] < pull.granted.size() && pull.to[block] < chunk.to().layout().slots;
}

bool TcpPath::Stream::ask(const Chunk& chunk) {
  take_.clear();
  for (std::uint32_t block = chunk.begin; block < chunk.end; ++block) {
    if (admit(chunk, block)) chunk.to().table().prefetch(chunk.pull().to[block]);
  }
  for (std::uint32_t block = chunk.begin; block < chunk.end; ++block) {
    if (!chunk.pending(block)) continue;
    if (!admit(chunk, block)) {
      chunk.pull().status[block] = BlockStatus::kOutOfRange;
      continue;
    }
    if (chunk.first_part == 0) chunk.to().reserve(chunk.pull().to[block]);
    take_.push_back(chunk.pull().take[block]);
  }
  if (take_.empty()) return true;  // nothing to ask: `take_answer` sees the same
  const wire::Request request{static_cast<std::uint32_t>(take_.size()), chunk.first_part,
                              chunk.last_part, chunk.pull().grant};
  pieces_.clear();
  pieces_.add(&request, sizeof request);
  pieces_.add(take_.data(), take_.size() * sizeof take_[0]);
  return send_all(link_->socket(), pieces_, [&] { return is_given_up(); });
}

bool TcpPath::Stream::take_answer(const Chunk& chunk) {
  blocks_.clear();
  for (std::uint32_t block = chunk.begin; block < chunk.end; ++block) {
    if (chunk.pending(block)) blocks_.push_back(block);
  }
  if (blocks_.empty()) return true;
  pieces_.clear();
  pieces_.add(answers_.data(), blocks_.size() * sizeof answers_[0]);
  if (!receive_all(link_->socket(), pieces_, [&] { return is_given_up(); })) return false;
  coming_.clear();
  for (std::uint32_t i = 0; i < blocks_.size(); ++i) {
    const BlockStatus status = answers_[i].status;
    if (status != BlockStatus::kPending && !is_refusal(status)) return false;
    if (status == BlockStatus::kPending) coming_.push_back(i);
  }
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    if (answers_[i].status != BlockStatus::kPending) {
      chunk.pull().status[blocks_[i]] = answers_[i].status;
    }
  }
  return coming_.empty() || receive_blocks(chunk);
}

/// By way of a buffer that stays in the cache: received right into slots, bytes would be sent to
/// memory and come back to be summed. What comes whole before the connection breaks is settled.
bool TcpPath::Stream::receive_blocks(const Chunk& chunk) {
  const std::size_t part_bytes = chunk.to().layout().part_bytes;
  const std::size_t parts = coming_.size() * (chunk.last_part - chunk.first_part);
  checksums_.resize(parts);
  pieces_.clear();
  pieces_.add(checksums_.data(), parts * sizeof checksums_[0]);
  Ticks ticks;
  std::size_t part = 0;   // that is coming,
  std::size_t there = 0;  // and bytes of it that have come
  while (part < parts) {
    const std::size_t wanted =
        part_bytes > kReceiveBytes
            ? std::min(part_bytes - there, kReceiveBytes)
            : std::min(parts - part, kReceiveBytes / part_bytes) * part_bytes;
    if (ticks.passed() && is_given_up()) return false;
    const std::size_t came = receive_more(wanted);
    const std::size_t usable = came < wanted ? came / part_bytes * part_bytes : came;
    const std::size_t first = part;
    for (std::size_t taken = 0; taken < usable;) {
      if (there == 0) begin_part(chunk, part);
      const std::size_t more = std::min(usable - taken, part_bytes - there);
      copy_->add(received_.data() + taken, more);
      taken += more;
      there += more;
      if (there < part_bytes) continue;
      verify_part(chunk, part++);
      there = 0;
    }
    commit(chunk, first, part);
    if (came < wanted) return false;
  }
  return true;
}

/// What `pieces_` has left, then into `received_`; how many of these bytes have come, fewer if the
/// connection is of no more use.
std::size_t TcpPath::Stream::receive_more(std::size_t bytes) {
  pieces_.add(received_.data(), bytes);
  const bool whole = receive_all(link_->socket(), pieces_, [&] { return is_given_up(); });
  const std::size_t left = whole ? 0 : pieces_.left().back().iov_len;
  pieces_.clear();
  return bytes - left;
}

/// `at` counts the parts of the blocks that come, in order.
TcpPath::Stream::Part TcpPath::Stream::coming_part(const Chunk& chunk, std::size_t at) const {
  const std::size_t parts = chunk.last_part - chunk.first_part;
  return {coming_[at / parts], chunk.first_part + static_cast<std::uint32_t>(at % parts)};
}

void TcpPath::Stream::begin_part(const Chunk& chunk, std::size_t at) {
  const Part next = coming_part(chunk, at);
  const std::uint32_t block = blocks_[next.of];
  const Arena& to = chunk.to();
  if (next.part == chunk.first_part) {  // what is needed when it has come
    to.table().prefetch(chunk.pull().to[block]);
    __builtin_prefetch(&chunk.pull().granted[chunk.pull().take[block]]);
  }
  copy_.emplace(to.part(chunk.pull().to[block], next.part), to.layout().part_bytes,
                chunk.streaming() ? Stores::kStreaming : Stores::kCached);
}

void TcpPath::Stream::verify_part(const Chunk& chunk, std::size_t at) {
  const auto [i, part] = coming_part(chunk, at);
  const Checksum sum = copy_->sum();
  chunk.to().table().set_checksum(chunk.pull().to[blocks_[i]], part, sum);
  sums_match_ = (part == chunk.first_part || sums_match_) && sum == checksums_[at];
  if (part + 1 == chunk.last_part) judge_block(chunk, i);
}

void TcpPath::Stream::judge_block(const Chunk& chunk, std::uint32_t i) {
  const Pull& pull = chunk.pull();
  const std::uint32_t block = blocks_[i];
  const wire::BlockAnswer& answer = answers_[i];
  if (answer.generation != pull.granted[pull.take[block]].generation) {
    pull.status[block] = BlockStatus::kStale;
  } else if (answer.key != pull.keys[block]) {
    pull.status[block] = BlockStatus::kWrongKey;
  } else if (answer.length_bytes != chunk.to().layout().block_bytes()) {
    pull.status[block] = BlockStatus::kTruncated;
  } else if (!sums_match_) {
    pull.status[block] = BlockStatus::kCorrupt;
  }
}

/// Of the blocks whose last part is one of these, those that are still pending have come through.
void TcpPath::Stream::commit(const Chunk& chunk, std::size_t first, std::size_t end) {
  if (chunk.streaming()) fence_stores();  // before anyone is told, of an earlier range too
  if (!chunk.last_range) return;
  const std::size_t each = chunk.last_part - chunk.first_part;
  for (std::size_t i = first / each; i < end / each; ++i) chunk.arrived(blocks_[coming_[i]]);
}

void TcpPath::Stream::finish(const Chunk& chunk) {
  if (path_.queue_.finish(chunk)) Path::finished(*chunk.transfer);
}

void TcpPath::Stream::settle_front() {
  const Chunk chunk = under_way_.front().chunk;
  under_way_.erase(under_way_.begin());
  finish(chunk);
}

void TcpPath::Stream::fail_all(BlockStatus status) {
  while (!under_way_.empty()) {
    const Chunk& chunk = under_way_.front().chunk;
    const BlockStatus own = verdict(chunk);
    chunk.fail_rest(own == BlockStatus::kPending ? status : own);
    settle_front();
  }
}

/// Takes out what nobody wants any more; true if there was any.
bool TcpPath::Stream::settle_ended() {
  const std::size_t before = under_way_.size();
  std::erase_if(under_way_, [&](const UnderWay& one) {
    const BlockStatus over = verdict(one.chunk);
    if (over == BlockStatus::kPending) return false;
    one.chunk.fail_rest(over);
    finish(one.chunk);
    return true;
  });
  return under_way_.size() < before;
}

/// Nobody claims what waits behind more than the connections carry in time.
void TcpPath::Stream::settle_queued() {
  while (const auto chunk = path_.queue_.claim_ended(path_.clock_.now())) {
    chunk->fail_rest(verdict(*chunk));
    finish(*chunk);
  }
}

/// Every tick of a connection that is slow or silent: whether to break it, for something under way
/// on it that nobody wants any more.
bool TcpPath::Stream::is_given_up() {
  settle_queued();
  return std::ranges::any_of(
      under_way_, [&](const UnderWay& one) { return verdict(one.chunk) != BlockStatus::kPending; });
}

/// Until nothing is under way any more. An owner that ends hangs up before it stops listening: who
/// was hung up on asks again shortly, to know whether it is dead.
Result<std::unique_ptr<TcpLink>> TcpPath::Stream::connect_again() {
  const auto nobody_waits = [&] {
    settle_queued();
    settle_ended();
    return under_way_.empty();
  };
  auto link = TcpLink::connect(path_.address_, nobody_waits);
  for (int i = 0;
       i < kHangUpsMax && !link && link.error().code == Code::kOverloaded && !nobody_waits(); ++i) {
    std::this_thread::sleep_for(kHangUpPause);
    link = TcpLink::connect(path_.address_, nobody_waits);
  }
  return link;
}

/// The connection is of no more use: what it had under way is asked for again on another.
void TcpPath::Stream::begin_anew() {
  for (;;) {
    // From here on nothing is received. Without a connection none broke: it is the first.
    const bool broke = std::exchange(link_, nullptr) != nullptr;
    const bool given_up = settle_ended();  // then that is why, and no chunk's fault
    if (under_way_.empty()) return;
    UnderWay& front = under_way_.front();
    if (broke && !given_up && ++front.failures > kFailuresMax) {
      front.chunk.fail_rest(BlockStatus::kPathFailed);
      settle_front();
      continue;
    }
    auto link = connect_again();
    // Broken here for what nobody wanted any more; who wants the rest has deadlines of its own.
    if (!link && given_up && link.error().code == Code::kDeadlineExceeded) continue;
    if (!link || (*link)->offer().epoch != path_.offer_.epoch) {
      const bool dead = link || link.error().code == Code::kUnavailable;
      if (dead && path_.judge_of_death_) path_.gone_.store(true, std::memory_order_release);
      return fail_all(BlockStatus::kPathFailed);
    }
    link_ = std::move(*link);
    if (std::ranges::all_of(under_way_, [&](const UnderWay& one) { return ask(one.chunk); })) {
      return;
    }
  }
}

void TcpPath::Stream::work() {
  for (;;) {
    if (ticks_.passed()) settle_queued();  // also where answers are quicker than a tick
    while (under_way_.size() < kRequestsMax) {
      const auto chunk = path_.queue_.claim(under_way_.empty());
      if (!chunk) break;
      if (const BlockStatus over = verdict(*chunk); over != BlockStatus::kPending) {
        chunk->fail_rest(over);
        finish(*chunk);
        continue;
      }
      under_way_.push_back({*chunk});
      if (link_ == nullptr || !ask(*chunk)) begin_anew();
    }
    if (under_way_.empty()) return;  // the queue has stopped
    if (take_answer(under_way_.front().chunk)) {
      settle_front();
    } else {
      begin_anew();
    }
  }
}

TcpPath::TcpPath(std::unique_ptr<TcpLink> first, PeerAddress address, std::atomic<bool>& gone,
                 bool judge_of_death, const Clock& clock)
    : Path(PathKind::kTcp),
      address_(std::move(address)),
      offer_(first->offer()),
      gone_(gone),
      judge_of_death_(judge_of_death),
      clock_(clock),
      queue_(kChunkBytes) {
  for (unsigned i = 0; i < std::max(address_.tcp_streams, 1U); ++i) {
    threads_.emplace_back([this, link = std::exchange(first, nullptr)]() mutable {
      Stream(*this, std::move(link)).work();
    });
  }
}

TcpPath::~TcpPath() { queue_.stop(); }

}  // namespace penstock::transfer
