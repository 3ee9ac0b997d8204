/*
 * The writer and reader of the chaos bench: three threads that write, read back and check without pause in one
 * directory, until standard input ends.
 *
 *   verify DIRECTORY LABEL
 *
 * blocks: O_DIRECT writes and reads of single blocks of one file, each read compared with the block's last write.
 * stream: 1 MiB through the page cache, fsync, dropped from the cache, read back.
 * names:  create (exclusively), rename, look for the old name, read, remove: a call that is done twice or not at
 *         all is seen as an error.
 *
 * Every 8 bytes depend on label, thread, block and generation: a block of another mount, place or time is wrong.
 *
 * Lines on standard output, times in microseconds of CLOCK_MONOTONIC:
 *   t THREAD NOW LAST_START LONGEST_START LONGEST_US OPERATIONS FAILED BYTES_CHECKED BYTES_WRONG
 *   e THREAD TEXT
 * LONGEST_* is the longest operation since the thread's line before; the others count from the start.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK_BYTES = 32768, BLOCKS = 48, STREAM_BYTES = 1 << 20, NAME_BYTES = 2000 };
enum { TELL_EVERY_US = 200000, LONG_US = 100000, PAUSE_US = 10000 };

static const char *directory;
static uint64_t label;
static atomic_bool ending;
static pthread_mutex_t output = PTHREAD_MUTEX_INITIALIZER;

struct thread {
	const char *name;
	uint64_t number, random;
	int64_t started_us, told_us, longest_start_us, longest_us;
	uint64_t operations, failed, checked, wrong;
};

static int64_t now_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

static uint64_t draw(struct thread *thread)
{
	return thread->random = mix(thread->random);
}

static void fill(struct thread *thread, uint64_t *words, size_t bytes, uint64_t block, uint64_t generation)
{
	uint64_t seed = mix(mix(mix(label + thread->number) + block) + generation);
	for (size_t i = 0; i < bytes / 8; i++)
		words[i] = mix(seed + i);
}

static void complain(struct thread *thread, const char *what, const char *why)
{
	pthread_mutex_lock(&output);
	printf("e %s %s: %s\n", thread->name, what, why);
	pthread_mutex_unlock(&output);
}

static void begin(struct thread *thread)
{
	thread->started_us = now_us();
}

static void tell(struct thread *thread)
{
	pthread_mutex_lock(&output);
	thread->told_us = now_us();
	printf("t %s %lld %lld %lld %lld %llu %llu %llu %llu\n", thread->name, (long long)thread->told_us,
	       (long long)thread->started_us, (long long)thread->longest_start_us, (long long)thread->longest_us,
	       (unsigned long long)thread->operations, (unsigned long long)thread->failed,
	       (unsigned long long)thread->checked, (unsigned long long)thread->wrong);
	pthread_mutex_unlock(&output);
	thread->longest_us = 0;
}

/* Ends an operation; says whether it succeeded. */
static int end(struct thread *thread, const char *what, int succeeded)
{
	int64_t took_us = now_us() - thread->started_us;
	thread->operations++;
	if (!succeeded) {
		thread->failed++;
		complain(thread, what, errno == 0 ? "short" : strerror(errno));
	}
	if (took_us > thread->longest_us) {
		thread->longest_us = took_us;
		thread->longest_start_us = thread->started_us;
	}
	if (took_us > LONG_US || now_us() - thread->told_us > TELL_EVERY_US)
		tell(thread);
	errno = 0;
	return succeeded;
}

static void check(struct thread *thread, const char *what, const uint64_t *found, const uint64_t *wanted, size_t bytes)
{
	uint64_t wrong = 0;
	if (memcmp(found, wanted, bytes) != 0)
		for (size_t i = 0; i < bytes; i++)
			wrong += ((const char *)found)[i] != ((const char *)wanted)[i];
	thread->checked += bytes;
	thread->wrong += wrong;
	if (wrong > 0) {
		char text[80];
		snprintf(text, sizeof text, "%llu of %zu bytes are wrong", (unsigned long long)wrong, bytes);
		complain(thread, what, text);
	}
}

static void *allocate(size_t bytes)
{
	void *memory;
	if (posix_memalign(&memory, 4096, bytes) != 0)
		abort();
	return memory;
}

static void path_of(char *path, const char *name)
{
	snprintf(path, 512, "%s/%s", directory, name);
}

static void *run_blocks(void *argument)
{
	struct thread *thread = argument;
	uint64_t generations[BLOCKS] = {0}, *wanted = allocate(BLOCK_BYTES), *found = allocate(BLOCK_BYTES);
	char path[512];
	path_of(path, "blocks");
	int file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_DIRECT, 0600);
	if (file < 0) {
		thread->failed++;
		complain(thread, "open", strerror(errno));
		return NULL;
	}
	while (!ending) {
		uint64_t block = draw(thread) % BLOCKS;
		off_t at = (off_t)block * BLOCK_BYTES;
		if (generations[block] == 0 || draw(thread) % 2) {
			generations[block]++;
			fill(thread, wanted, BLOCK_BYTES, block, generations[block]);
			begin(thread);
			if (!end(thread, "pwrite", pwrite(file, wanted, BLOCK_BYTES, at) == BLOCK_BYTES))
				generations[block] = 0;
		} else {
			fill(thread, wanted, BLOCK_BYTES, block, generations[block]);
			begin(thread);
			if (end(thread, "pread", pread(file, found, BLOCK_BYTES, at) == BLOCK_BYTES))
				check(thread, "block", found, wanted, BLOCK_BYTES);
		}
		usleep(PAUSE_US);
	}
	for (uint64_t block = 0; block < BLOCKS; block++) {
		if (generations[block] == 0)
			continue;
		fill(thread, wanted, BLOCK_BYTES, block, generations[block]);
		begin(thread);
		if (end(thread, "pread", pread(file, found, BLOCK_BYTES, (off_t)block * BLOCK_BYTES) == BLOCK_BYTES))
			check(thread, "block at the end", found, wanted, BLOCK_BYTES);
	}
	begin(thread);
	end(thread, "close", close(file) == 0);
	return NULL;
}

static int write_whole(int file, const void *from, size_t bytes)
{
	for (size_t done = 0; done < bytes;) {
		ssize_t count = write(file, (const char *)from + done, bytes - done);
		if (count <= 0)
			return 0;
		done += count;
	}
	return 1;
}

static int read_whole(int file, void *to, size_t bytes)
{
	for (size_t done = 0; done < bytes;) {
		ssize_t count = read(file, (char *)to + done, bytes - done);
		if (count <= 0)
			return 0;
		done += count;
	}
	return 1;
}

static void *run_stream(void *argument)
{
	struct thread *thread = argument;
	uint64_t *wanted = allocate(STREAM_BYTES), *found = allocate(STREAM_BYTES);
	char path[512];
	path_of(path, "stream");
	for (uint64_t generation = 1; !ending; generation++) {
		fill(thread, wanted, STREAM_BYTES, 0, generation);
		begin(thread);
		int file = open(path, O_RDWR | O_CREAT, 0600);
		if (!end(thread, "open", file >= 0))
			continue;
		begin(thread);
		if (end(thread, "write", write_whole(file, wanted, STREAM_BYTES) && fsync(file) == 0)) {
			posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
			begin(thread);
			if (end(thread, "read", lseek(file, 0, SEEK_SET) == 0 && read_whole(file, found, STREAM_BYTES)))
				check(thread, "stream", found, wanted, STREAM_BYTES);
		}
		begin(thread);
		end(thread, "close", close(file) == 0);
		usleep(PAUSE_US * 5);
	}
	return NULL;
}

static void *run_names(void *argument)
{
	struct thread *thread = argument;
	uint64_t *wanted = allocate(4096), *found = allocate(4096);
	for (uint64_t number = 1; !ending; number++) {
		char name[64], path[512], renamed[512];
		struct stat status;
		snprintf(name, sizeof name, "new-%llu", (unsigned long long)number);
		path_of(path, name);
		snprintf(name, sizeof name, "old-%llu", (unsigned long long)number);
		path_of(renamed, name);
		fill(thread, wanted, NAME_BYTES, 0, number);
		begin(thread);
		int file = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
		if (!end(thread, "create", file >= 0))
			continue;
		begin(thread);
		end(thread, "write and close", write_whole(file, wanted, NAME_BYTES) & (close(file) == 0));
		begin(thread);
		end(thread, "rename", rename(path, renamed) == 0);
		begin(thread);
		int is_gone = stat(path, &status) != 0 && errno == ENOENT;
		end(thread, "look for the old name", is_gone);
		begin(thread);
		file = open(renamed, O_RDONLY | O_DIRECT);
		if (end(thread, "open", file >= 0)) {
			begin(thread);
			if (end(thread, "read", read(file, found, 4096) == NAME_BYTES))
				check(thread, "small file", found, wanted, NAME_BYTES);
			close(file);
		}
		begin(thread);
		end(thread, "remove", unlink(renamed) == 0);
		usleep(PAUSE_US * 2);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: verify DIRECTORY LABEL\n");
		return 2;
	}
	directory = argv[1];
	for (const char *letter = argv[2]; *letter; letter++)
		label = mix(label + (unsigned char)*letter);
	setvbuf(stdout, NULL, _IOLBF, 0);
	static void *(*const bodies[])(void *) = {run_blocks, run_stream, run_names};
	static struct thread threads[] = {{.name = "blocks"}, {.name = "stream"}, {.name = "names"}};
	pthread_t ids[3];
	for (int i = 0; i < 3; i++) {
		threads[i].number = i;
		threads[i].random = mix(label + 100 + i);
		pthread_create(&ids[i], NULL, bodies[i], &threads[i]);
	}
	char byte;
	while (read(0, &byte, 1) > 0)
		;
	ending = 1;
	for (int i = 0; i < 3; i++) {
		pthread_join(ids[i], NULL);
		tell(&threads[i]);
	}
	return 0;
}
