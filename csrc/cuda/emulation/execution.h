// The execution model of execution.cuh on the CPU, for tests: blocks run one after the other, the threads of
// a block as fibers that switch at barriers and warp operations only. What a GPU would not forgive is made
// visible: shared memory starts as NaN and ends where it was asked to end (AddressSanitizer sees reads
// beyond), copies arrive when they are waited for and no sooner, threads run in either order, and a barrier
// that not all reach is an error.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#define DCN_DEVICE inline
#define DCN_HAS_TENSOR_TILES 1

namespace dcn::cuda {

class EmulatedBlock {
 public:
  EmulatedBlock(int index, int threads, size_t shared_bytes, bool backwards,
                const std::function<void()>& body)
      : index_(index),
        threads_(threads),
        backwards_(backwards),
        body_(body),
        shared_(static_cast<char*>(std::aligned_alloc(16, (shared_bytes + 15) / 16 * 16))),
        warps_((threads + kWarpLanes - 1) / kWarpLanes),
        fibers_(threads) {
    if (shared_bytes % 16 != 0) throw std::invalid_argument("shared memory is not a multiple of 16 bytes");
    std::memset(shared_.get(), 0xFF, shared_bytes);
  }

  // A warp runs until it ends or waits for the others: they are as far apart as barriers allow.
  void run() {
    running() = this;
    for (int thread = 0; thread < threads_; ++thread) start(thread);
    const int warps = static_cast<int>(warps_.size());
    for (int alive = threads_; alive > 0;) {
      progress_ = false;
      for (int turn = 0; turn < warps; ++turn) alive -= run_warp(backwards_ ? warps - 1 - turn : turn);
      if (!progress_) throw std::logic_error("some threads wait where the others never arrive");
    }
  }

  static EmulatedBlock*& running() {
    static thread_local EmulatedBlock* block = nullptr;
    return block;
  }

  int index() const { return index_; }
  int threads() const { return threads_; }
  int thread() const { return thread_; }
  int lane() const { return thread_ % kWarpLanes; }
  void* shared() const { return shared_.get(); }

  void synchronize_block() { wait(barrier_, threads_); }
  void synchronize_warp() { wait(warp().barrier, kWarpLanes); }

  // What every lane of this warp hands over, by lane. It stays until the next but one exchange.
  template <typename Value>
  const Value* exchange(const Value& value) {
    static_assert(sizeof(Value) * kWarpLanes <= sizeof(Warp::values[0]));
    const int turn = fibers_[thread_].exchanges++ % 2;
    Value* values = reinterpret_cast<Value*>(warp().values[turn]);
    std::memcpy(&values[lane()], &value, sizeof value);
    synchronize_warp();
    return values;
  }

  void copy_later(void* shared, const void* global, bool inside) {
    fibers_[thread_].copies.push_back({shared, inside ? global : nullptr});
  }

  void wait_for_copies() {
    for (const Copy& copy : fibers_[thread_].copies) {
      if (copy.from) {
        std::memcpy(copy.to, copy.from, 16);
      } else {
        std::memset(copy.to, 0, 16);
      }
    }
    fibers_[thread_].copies.clear();
  }

 private:
  struct Barrier {
    int arrived = 0;
    int generation = 0;
  };

  struct Warp {
    Barrier barrier;
    alignas(16) char values[2][kWarpLanes * 32];
  };

  struct Copy {
    void* to;
    const void* from;
  };

  struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    std::vector<Copy> copies;
    int exchanges = 0;
    bool done = false;
  };

  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };

  static constexpr size_t kStackBytes = 64 << 10;

  Warp& warp() { return warps_[thread_ / kWarpLanes]; }

  void start(int thread) {
    Fiber& fiber = fibers_[thread];
    fiber.stack.reset(new char[kStackBytes]);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = &scheduler_;
    makecontext(&fiber.context, &EmulatedBlock::enter, 0);
  }

  // Returns how many of its threads ended.
  int run_warp(int warp) {
    int ended = 0;
    for (bool moved = true; moved;) {
      moved = false;
      for (int turn = 0; turn < kWarpLanes; ++turn) {
        thread_ = warp * kWarpLanes + (backwards_ ? kWarpLanes - 1 - turn : turn);
        Fiber& fiber = fibers_[thread_];
        if (fiber.done) continue;
        moved_ = false;
        swapcontext(&scheduler_, &fiber.context);
        ended += fiber.done;
        moved |= moved_ || fiber.done;
      }
      progress_ |= moved;
    }
    return ended;
  }

  static void enter() {
    EmulatedBlock& block = *running();
    block.body_();
    Fiber& fiber = block.fibers_[block.thread_];
    if (!fiber.copies.empty()) std::abort();  // a copy that nothing waits for
    fiber.done = true;
  }

  void wait(Barrier& barrier, int expected) {
    const int generation = barrier.generation;
    if (++barrier.arrived == expected) {
      barrier.arrived = 0;
      ++barrier.generation;
      moved_ = true;
      return;
    }
    Fiber& fiber = fibers_[thread_];
    while (barrier.generation == generation) swapcontext(&fiber.context, &scheduler_);
    moved_ = true;
  }

  const int index_, threads_;
  const bool backwards_;
  const std::function<void()>& body_;
  std::unique_ptr<char, Free> shared_;
  std::vector<Warp> warps_;
  std::vector<Fiber> fibers_;
  ucontext_t scheduler_;
  Barrier barrier_;
  int thread_ = 0;
  bool progress_ = false, moved_ = false;
};

DCN_DEVICE int thread_index() { return EmulatedBlock::running()->thread(); }
DCN_DEVICE int block_threads() { return EmulatedBlock::running()->threads(); }
DCN_DEVICE int block_index() { return EmulatedBlock::running()->index(); }
DCN_DEVICE void* shared_memory() { return EmulatedBlock::running()->shared(); }
DCN_DEVICE void synchronize_block() { EmulatedBlock::running()->synchronize_block(); }
DCN_DEVICE void synchronize_warp() { EmulatedBlock::running()->synchronize_warp(); }

template <typename Value>
DCN_DEVICE Value shuffle_xor(Value value, int lane_mask) {
  EmulatedBlock& block = *EmulatedBlock::running();
  return block.exchange(value)[block.lane() ^ lane_mask];
}

inline void require_aligned(const void* address, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0) std::abort();
}

template <typename Value>
DCN_DEVICE Value load_constant(const void* address) {
  require_aligned(address, sizeof(Value));
  Value value;
  std::memcpy(&value, address, sizeof value);
  return value;
}

template <typename Value>
DCN_DEVICE void atomic_add(Value* address, Value value) {
  *address += value;
}

DCN_DEVICE void atomic_store(int64_t* address, int64_t value) { *address = value; }

DCN_DEVICE void atomic_add4(float* address, const float value[4]) {
  require_aligned(address, 16);
  for (int i = 0; i < 4; ++i) address[i] += value[i];
}

DCN_DEVICE float half_to_float(uint16_t bits) {
  _Float16 value;
  std::memcpy(&value, &bits, 2);
  return value;
}

DCN_DEVICE uint16_t float_to_half(float value) {
  const _Float16 half = static_cast<_Float16>(value);
  uint16_t bits;
  std::memcpy(&bits, &half, 2);
  return bits;
}

DCN_DEVICE uint16_t float_to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return value == value ? (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16 : 0x7FFFu;  // to nearest even
}

DCN_DEVICE uint32_t floats_to_halves(float first, float second) {
  return float_to_half(first) | static_cast<uint32_t>(float_to_half(second)) << 16;
}

DCN_DEVICE uint32_t floats_to_bfloat16s(float first, float second) {
  return float_to_bfloat16(first) | static_cast<uint32_t>(float_to_bfloat16(second)) << 16;
}

template <typename Real>
DCN_DEVICE Real multiply(Real a, Real b) {
  return a * b;
}

DCN_DEVICE int64_t round_to_integer(double value) { return std::llrint(value); }
DCN_DEVICE bool is_finite(double value) { return std::isfinite(value); }

DCN_DEVICE void copy_async(void* shared, const void* global, bool inside) {
  require_aligned(shared, 16);
  require_aligned(global, 16);
  EmulatedBlock::running()->copy_later(shared, global, inside);
}

DCN_DEVICE void wait_for_copies() { EmulatedBlock::running()->wait_for_copies(); }

DCN_DEVICE void load_matrices(uint32_t matrix[4], const void* shared_row) {
  require_aligned(shared_row, 16);
  EmulatedBlock& block = *EmulatedBlock::running();
  const void* const* rows = block.exchange(shared_row);
  for (int i = 0; i < 4; ++i) {
    const char* row = static_cast<const char*>(rows[8 * i + block.lane() / 4]);
    std::memcpy(&matrix[i], row + 4 * (block.lane() % 4), 4);
  }
}

struct Fragments {
  uint32_t left[4], right[2];
};

template <bool kBFloat16>
inline float element_of(uint32_t pair, int index) {
  const uint16_t bits = pair >> (16 * index);
  if (!kBFloat16) return half_to_float(bits);
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

// Depth [8 * first_half, 8 * last_half) of the 16.
template <bool kBFloat16>
inline void multiply_halves(float sums[4], const uint32_t left[4], const uint32_t right[2], int first_half,
                            int last_half) {
  EmulatedBlock& block = *EmulatedBlock::running();
  Fragments own;
  std::memcpy(own.left, left, sizeof own.left);
  std::memcpy(own.right, right, sizeof own.right);
  const Fragments* lanes = block.exchange(own);
  for (int i = 0; i < 4; ++i) {
    const int row = block.lane() / 4, column = 2 * (block.lane() % 4) + i % 2, lower = i / 2;
    for (int k = 8 * first_half; k < 8 * last_half; ++k) {
      const int quad_lane = k % 8 / 2;
      sums[i] += element_of<kBFloat16>(lanes[4 * row + quad_lane].left[2 * (k / 8) + lower], k % 2) *
                 element_of<kBFloat16>(lanes[4 * column + quad_lane].right[k / 8], k % 2);
    }
  }
}

template <bool kBFloat16>
DCN_DEVICE void multiply_16(float sums[4], const uint32_t left[4], const uint32_t right[2]) {
  multiply_halves<kBFloat16>(sums, left, right, 0, 2);
}

template <bool kBFloat16, int half>
DCN_DEVICE void multiply_8(float sums[4], const uint32_t left[4], const uint32_t right[2]) {
  multiply_halves<kBFloat16>(sums, left, right, half, half + 1);
}

}  // namespace dcn::cuda
