// One entry for every name of names.def: a jump through a slot. The slot leads to the real function once it was
// resolved, at first use; before, to code that resolves it and goes on there with all argument registers as they were.
// So no prototypes are needed, and a forwarded call costs one indirect jump.
#include "real_library.hpp"

namespace arbiter::nccl_interpose {

/// As the assembly below lays it out.
struct Slot {
  void* target;
  const char* name;
};

extern "C" __attribute__((visibility("hidden"), used)) void* arbiter_interpose_resolve(Slot* slot) noexcept {
  void* target = resolve(slot->name);
  __atomic_store_n(&slot->target, target, __ATOMIC_RELEASE);
  return target;
}

}  // namespace arbiter::nccl_interpose

#if defined(__x86_64__)
// A slot's address arrives in r11, which no calling convention uses for arguments.
__asm__(R"(
  .text
  .type arbiter_interpose_first_use, @function
arbiter_interpose_first_use:
  pushq %rbp
  movq %rsp, %rbp
  pushq %rax
  pushq %rdi
  pushq %rsi
  pushq %rdx
  pushq %rcx
  pushq %r8
  pushq %r9
  pushq %r10
  subq $128, %rsp
  movups %xmm0, (%rsp)
  movups %xmm1, 16(%rsp)
  movups %xmm2, 32(%rsp)
  movups %xmm3, 48(%rsp)
  movups %xmm4, 64(%rsp)
  movups %xmm5, 80(%rsp)
  movups %xmm6, 96(%rsp)
  movups %xmm7, 112(%rsp)
  movq %r11, %rdi
  call arbiter_interpose_resolve
  movq %rax, %r11
  movups (%rsp), %xmm0
  movups 16(%rsp), %xmm1
  movups 32(%rsp), %xmm2
  movups 48(%rsp), %xmm3
  movups 64(%rsp), %xmm4
  movups 80(%rsp), %xmm5
  movups 96(%rsp), %xmm6
  movups 112(%rsp), %xmm7
  addq $128, %rsp
  popq %r10
  popq %r9
  popq %r8
  popq %rcx
  popq %rdx
  popq %rsi
  popq %rdi
  popq %rax
  popq %rbp
  jmpq *%r11
  .size arbiter_interpose_first_use, . - arbiter_interpose_first_use
)");
// clang-format off
#define ARBITER_NCCL_FORWARD(name)                                        \
  __asm__(".text\n"                                                       \
          ".globl " #name "\n"                                            \
          ".type " #name ", @function\n"                                  \
          ".balign 16\n"                                                  \
          #name ":\n"                                                     \
          "  endbr64\n"                                                   \
          "  jmpq *arbiter_interpose_slot_" #name "(%rip)\n"              \
          ".size " #name ", . - " #name "\n"                              \
          "arbiter_interpose_first_" #name ":\n"                          \
          "  leaq arbiter_interpose_slot_" #name "(%rip), %r11\n"         \
          "  jmp arbiter_interpose_first_use\n"                           \
          ".section .rodata.arbiter_interpose, \"a\", @progbits\n"        \
          "arbiter_interpose_name_" #name ": .string \"" #name "\"\n"     \
          ".data\n"                                                       \
          ".balign 8\n"                                                   \
          "arbiter_interpose_slot_" #name ":\n"                           \
          "  .quad arbiter_interpose_first_" #name "\n"                   \
          "  .quad arbiter_interpose_name_" #name "\n"                    \
          ".text\n");
// clang-format on
#elif defined(__aarch64__)
// A slot's address arrives in x16, which a call may change anyway.
__asm__(R"(
  .text
  .type arbiter_interpose_first_use, %function
arbiter_interpose_first_use:
  stp x29, x30, [sp, #-224]!
  mov x29, sp
  stp x0, x1, [sp, #16]
  stp x2, x3, [sp, #32]
  stp x4, x5, [sp, #48]
  stp x6, x7, [sp, #64]
  str x8, [sp, #80]
  stp q0, q1, [sp, #96]
  stp q2, q3, [sp, #128]
  stp q4, q5, [sp, #160]
  stp q6, q7, [sp, #192]
  mov x0, x16
  bl arbiter_interpose_resolve
  mov x16, x0
  ldp x0, x1, [sp, #16]
  ldp x2, x3, [sp, #32]
  ldp x4, x5, [sp, #48]
  ldp x6, x7, [sp, #64]
  ldr x8, [sp, #80]
  ldp q0, q1, [sp, #96]
  ldp q2, q3, [sp, #128]
  ldp q4, q5, [sp, #160]
  ldp q6, q7, [sp, #192]
  ldp x29, x30, [sp], #224
  br x16
  .size arbiter_interpose_first_use, . - arbiter_interpose_first_use
)");
// clang-format off
#define ARBITER_NCCL_FORWARD(name)                                        \
  __asm__(".text\n"                                                       \
          ".globl " #name "\n"                                            \
          ".type " #name ", %function\n"                                  \
          ".balign 16\n"                                                  \
          #name ":\n"                                                     \
          "  adrp x16, arbiter_interpose_slot_" #name "\n"                \
          "  add x16, x16, :lo12:arbiter_interpose_slot_" #name "\n"      \
          "  ldr x17, [x16]\n"                                            \
          "  br x17\n"                                                    \
          ".size " #name ", . - " #name "\n"                              \
          ".section .rodata.arbiter_interpose, \"a\", %progbits\n"        \
          "arbiter_interpose_name_" #name ": .string \"" #name "\"\n"     \
          ".data\n"                                                       \
          ".balign 8\n"                                                   \
          "arbiter_interpose_slot_" #name ":\n"                           \
          "  .quad arbiter_interpose_first_use\n"                         \
          "  .quad arbiter_interpose_name_" #name "\n"                    \
          ".text\n");
// clang-format on
#else
#error "the NCCL entries are written for x86-64 and 64-bit ARM"
#endif

#include "names.def"
