/*
 * Moves the wall clock of every process that is started with it (ld.so.preload) by the seconds that the file
 * OFFSET_FILE holds at the moment, a 64-bit number. Monotonic time goes on as it is. The NFS server is left out: it
 * would take the leases of all its clients for expired.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t none;
static const volatile int64_t *offset = &none;

__attribute__((constructor)) static void open_offset(void)
{
	if (strcmp(program_invocation_short_name, "ganesha.nfsd") == 0)
		return;
	int file = open(OFFSET_FILE, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return;
	void *memory = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
	if (memory != MAP_FAILED)
		offset = memory;
	close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int result = syscall(SYS_clock_gettime, clock, now);
	if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		now->tv_sec += *offset;
	return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec time;
	(void)zone;
	clock_gettime(CLOCK_REALTIME, &time);
	now->tv_sec = time.tv_sec;
	now->tv_usec = time.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *result)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	if (result)
		*result = now.tv_sec;
	return now.tv_sec;
}
