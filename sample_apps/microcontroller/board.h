// A Cortex-M3 board without a system: its clock, and a debugger's line to the world (semihosting).
#pragma once
#include <stddef.h>
#include <stdint.h>

void say(const char *text);
void say_bytes(const char *bytes, size_t count);

// The next byte of the debugger's console, or -1 at the end of input.
int read_byte(void);

// What the program was started with ("edge who wrote hamlet"), as many bytes as there is room for. Its length.
int command_line(char *line, int room);

// Processor clock ticks since the board started. Wraps after 2^32.
uint32_t ticks(void);

_Noreturn void finish(int code);
