// The contract between a kernel compiled for the CPU device and the fiber executor that runs it.
// Compiled into both sides, so it includes nothing.
//
// An image exports, with C linkage:
//   arbiter_thread** arbiter_current_slot();                  address of this OS thread's "current CUDA thread" pointer
//   void arbiter_kernel_rank<r>(const void* arguments);       body of one CUDA thread of rank r; `arguments` points to
//                                                             one arbiter_abi::Arguments
// Before a fiber runs or resumes, the executor stores its arbiter_thread into the slot.

// Most ranks that multicast memory joins.
constexpr unsigned arbiter_multicast_members = 16;

extern "C" {

struct arbiter_thread {
  // Where this CUDA thread is.
  unsigned thread_index, block_threads;   // threadIdx.x, blockDim.x
  unsigned block_index, grid_blocks;      // blockIdx.x, gridDim.x
  unsigned cluster_rank, cluster_blocks;  // rank of this block in its cluster; 0 and 1 without clusters
  void* shared;                           // dynamic shared memory of this block
  void* const* cluster_shared;            // [cluster_blocks] shared memory of every block of the cluster

  // Services of the executor. All may switch to other fibers.
  void (*yield)(arbiter_thread*);            // called between two polls
  void (*block_barrier)(arbiter_thread*);    // __syncthreads
  void (*cluster_barrier)(arbiter_thread*);  // arrive.release + wait.acquire of all threads of the cluster
  // Exchange within the warp of 32 consecutive threads (all of them call it): the value of lane ^ mask.
  unsigned (*shuffle_xor)(arbiter_thread*, unsigned value, unsigned mask);
  unsigned long long (*now_ns)(arbiter_thread*);
  // A store of 4, 8 or 16 bytes to memory of a device. release != 0: whoever acquires it sees what this thread stored
  // or observed earlier.
  void (*store_symmetric)(arbiter_thread*, void* destination, const unsigned* words, unsigned count, int release);
  // A load of 4, 8 or 16 bytes from memory of a device. order: 0 plain, 1 relaxed, 2 acquire. Null: memory may be read
  // (and written, except with release) directly; otherwise whatever another thread may store has to be loaded with
  // this.
  void (*load_symmetric)(arbiter_thread*, const void* source, unsigned* words, unsigned count, int order);
  // The same store to the memory of all ranks, given an address in multicast memory.
  void (*store_multicast)(arbiter_thread*, void* destination, const unsigned* words, unsigned count);
  // Where an address in multicast memory lies on each rank; how many ranks there are.
  unsigned (*multicast_members)(arbiter_thread*, const void* address, const void** members);
  void (*fence_system)(arbiter_thread*);
  void (*grid_dependency_wait)(arbiter_thread*);
  void (*grid_dependency_trigger)(arbiter_thread*);

  void* executor;  // for the executor alone
};
}
