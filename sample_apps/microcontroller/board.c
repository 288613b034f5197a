// Start-up, SysTick and semihosting, by the book: ARMv7-M Architecture Reference Manual (DDI 0403), B1.5 (vectors), B3.3 (SysTick); "Semihosting for AArch32 and
// AArch64" (Arm, ABI section). Nothing here is of one maker's board but the linker script.
#include "board.h"

extern uint32_t stack_top, data_begin, data_end, data_stored, bss_begin, bss_end;
int main(void);

static volatile uint32_t wraps;  // of SysTick, which counts 24 bits down

__attribute__((used)) void reset(void) {
  const uint32_t *from = &data_stored;
  for (uint32_t *to = &data_begin; to < &data_end;) *to++ = *from++;
  for (uint32_t *to = &bss_begin; to < &bss_end;) *to++ = 0;
  volatile uint32_t *const systick = (volatile uint32_t *)0xE000E010;  // control, reload, value
  systick[1] = 0xFFFFFF;
  systick[2] = 0;
  systick[0] = 7;  // the processor's clock, with its interrupt
  finish(main());
}

static void fault(void) {
  say("{\"error\":\"the processor met a fault: an address or an instruction that it does not have\"}\n");
  finish(1);
}

static void on_systick(void) { ++wraps; }

__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void)) & stack_top, reset, fault, fault, fault, fault, fault, 0, 0, 0, 0, fault, fault, 0, fault, on_systick,
};

uint32_t ticks(void) {
  volatile uint32_t *const value = (volatile uint32_t *)0xE000E018;
  for (;;) {  // again where it wrapped between the two
    const uint32_t before = wraps, now = *value;
    if (before == wraps) return before * 0x1000000u + (0xFFFFFFu - now);
  }
}

enum { OPEN = 0x01, WRITE = 0x05, READ = 0x06, COMMAND_LINE = 0x15, EXIT = 0x20 };  // EXIT: SYS_EXIT_EXTENDED, which knows a code

static int ask_debugger(int what, const void *arguments) {
  register int number __asm__("r0") = what;
  register const void *block __asm__("r1") = arguments;
  __asm__ volatile("bkpt 0xAB" : "+r"(number) : "r"(block) : "memory");
  return number;
}

static int opened(const char *name, int length, int mode) {  // 0: to read, 4: to write, 8: to append
  const struct { const char *name; int mode, length; } open = {name, mode, length};
  return ask_debugger(OPEN, &open);
}

void say_bytes(const char *bytes, size_t count) {
  static int out;
  if (out <= 0) out = opened("/dev/stdout", 11, 8);
  if (out <= 0) out = opened(":tt", 3, 4);
  const struct { int file; const char *bytes; size_t count; } write = {out, bytes, count};
  ask_debugger(WRITE, &write);
}

void say(const char *text) {
  size_t count = 0;
  while (text[count] != 0) ++count;
  say_bytes(text, count);
}

int read_byte(void) {
  static char buffer[256];
  static int in = -1, have, at;
  // The debugger's own input where it has such a file, else its console: that of qemu does not wait (https://gitlab.com/qemu-project/qemu/-/issues/1963).
  if (in < 0) in = opened("/dev/stdin", 10, 0);
  if (in < 0) in = opened(":tt", 3, 0);
  if (at == have) {
    const struct { int file; char *bytes; int count; } read = {in, buffer, sizeof buffer};
    have = (int)sizeof buffer - ask_debugger(READ, &read);  // it says how many are missing
    at = 0;
    if (have <= 0) return have = 0, -1;
  }
  return (uint8_t)buffer[at++];
}

int command_line(char *line, int room) {
  struct { char *bytes; int count; } ask = {line, room};
  return ask_debugger(COMMAND_LINE, &ask) == 0 ? ask.count : 0;
}

_Noreturn void finish(int code) {
  const struct { int reason, code; } end = {0x20026, code};  // ADP_Stopped_ApplicationExit
  ask_debugger(EXIT, &end);
  for (;;) {
  }
}
