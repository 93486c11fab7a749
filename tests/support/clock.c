/* A wall clock that is wrong by CLOCK_SHIFT seconds; tests preload it into a process. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *at)
{
    int failed = syscall(SYS_clock_gettime, clock, at);
    const char *shift = getenv("CLOCK_SHIFT");
    if (!failed && clock == CLOCK_REALTIME && shift)
        at->tv_sec += atol(shift);
    return failed;
}
