/*
 * The two ends of every measurement: a mount target that answers at once, and an NFS client that never waits.
 *
 *   load serve CERT KEY [BYTES_PER_SECOND]
 *       TLS on one port of 127.0.0.1, plain TCP on another; prints both port numbers, ends when stdin does.
 *       With a limit each connection answers no faster, and bind calls are answered: up to five belong together.
 *   load drive PORT CONNECTIONS KINDS WARM_MS MEASURE_MS [PID...]
 *       KINDS = COUNTxCALL:REPLY[,...]: so many calls always outstanding on each connection, sizes in bytes
 *       with record mark. Prints one line of JSON about the measured window; CPU seconds of each PID are read
 *       at its first and last instant.
 *
 * Calls and replies are ONC RPC records of one fragment (RFC 5531 sections 9 and 11). The word after a call's
 * header says how long its reply shall be. Another program than NFS is answered PROG_UNAVAIL, as servers do.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
  mark_bytes = 4,
  call_header_bytes = 48,  /* mark, xid, CALL, version, program, version, procedure, two empty AUTH_NONE, reply length */
  reply_header_bytes = 28, /* mark, xid, REPLY, accepted, empty AUTH_NONE, status */
  nfs_program = 100003,
  bind_program = 400123,
  bind_reply_bytes = 28 + 4 + 64 + 16, /* reply type, partition, four settings */
  max_record_bytes = 8 << 20,
  server_buffer_bytes = 256 << 10,
  client_buffer_bytes = 1 << 20,
};
#define LAST_FRAGMENT 0x80000000u

static void die(const char *what) {
  fprintf(stderr, "load: %s%s%s\n", what, errno ? ": " : "", errno ? strerror(errno) : "");
  exit(1);
}

static void put32(uint8_t *at, uint32_t value) {
  value = htonl(value);
  memcpy(at, &value, 4);
}

static uint32_t get32(const uint8_t *at) {
  uint32_t value;
  memcpy(&value, at, 4);
  return ntohl(value);
}

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void *allocate(size_t bytes) {
  void *memory = calloc(1, bytes);
  if (memory == NULL) die("out of memory");
  return memory;
}

/* ---------------------------------------------------------------- serve */

struct peer {
  int fd;
  SSL *ssl; /* NULL: plain TCP */
  uint8_t *in, *out;
  size_t out_bytes;
  uint64_t free_at_ns; /* when the limit lets it answer again */
};

static SSL_CTX *tls_context;
static uint64_t limit_bytes_per_second; /* 0: none */

/* What was answered is paid for with time; a twentieth of a second can be saved up. */
static void keep_to_limit(struct peer *peer, size_t bytes) {
  uint64_t now = now_ns(), saved = 50000000u;
  if (peer->free_at_ns + saved < now) peer->free_at_ns = now - saved;
  peer->free_at_ns += bytes * 1000000000u / limit_bytes_per_second;
  if (peer->free_at_ns <= now) return;
  uint64_t wait = peer->free_at_ns - now;
  struct timespec pause = {(time_t)(wait / 1000000000u), (long)(wait % 1000000000u)};
  while (nanosleep(&pause, &pause) != 0 && errno == EINTR) continue;
}

static bool flush(struct peer *peer) {
  size_t sent = 0;
  if (peer->ssl != NULL) {
    if (peer->out_bytes > 0 && SSL_write(peer->ssl, peer->out, (int)peer->out_bytes) <= 0) return false;
    if (BIO_flush(SSL_get_wbio(peer->ssl)) <= 0) return false;
  }
  while (peer->ssl == NULL && sent < peer->out_bytes) {
    ssize_t wrote = write(peer->fd, peer->out + sent, peer->out_bytes - sent);
    if (wrote <= 0) return false;
    sent += (size_t)wrote;
  }
  peer->out_bytes = 0;
  return true;
}

static bool append(struct peer *peer, const uint8_t *bytes, size_t length) {
  while (length > 0) {
    size_t room = server_buffer_bytes - peer->out_bytes;
    size_t piece = length < room ? length : room;
    if (bytes != NULL) {
      memcpy(peer->out + peer->out_bytes, bytes, piece);
      bytes += piece;
    } else {
      memset(peer->out + peer->out_bytes, 0, piece);
    }
    peer->out_bytes += piece;
    length -= piece;
    if (peer->out_bytes == server_buffer_bytes && !flush(peer)) return false;
  }
  return true;
}

/* Every connection is of the same partition; more of them are wanted after a second at a fifth of the limit. */
static bool answer_bind(struct peer *peer, const uint8_t *call) {
  uint8_t reply[bind_reply_bytes] = {0};
  const uint32_t settings[4] = {5, (uint32_t)(limit_bytes_per_second / 5), 1, 1};
  put32(reply, LAST_FRAGMENT | (bind_reply_bytes - mark_bytes));
  memcpy(reply + 4, call + 4, 4);
  put32(reply + 8, 1);
  put32(reply + reply_header_bytes, 3);
  memset(reply + reply_header_bytes + 4, 1, 64);
  for (int i = 0; i < 4; i++) put32(reply + bind_reply_bytes - 16 + 4 * i, settings[i]);
  return append(peer, reply, sizeof reply) && flush(peer);
}

static bool answer(struct peer *peer, const uint8_t *call) {
  if (limit_bytes_per_second > 0 && get32(call + 16) == bind_program) return answer_bind(peer, call);
  bool known = get32(call + 16) == nfs_program;
  uint32_t reply_bytes = known ? get32(call + call_header_bytes - 4) : reply_header_bytes;
  uint8_t header[reply_header_bytes] = {0};
  if (reply_bytes < reply_header_bytes || reply_bytes > max_record_bytes) return false;
  put32(header, LAST_FRAGMENT | (reply_bytes - mark_bytes));
  memcpy(header + 4, call + 4, 4);
  put32(header + 8, 1);
  put32(header + 24, known ? 0 : 1);
  if (limit_bytes_per_second > 0) keep_to_limit(peer, reply_bytes);
  /* Each reply leaves at once and in TLS records of its own, as from a server with many threads. */
  return append(peer, header, sizeof header) && append(peer, NULL, reply_bytes - sizeof header) && flush(peer);
}

static void *serve_peer(void *argument) {
  struct peer *peer = argument;
  size_t have = 0, skip = 0;
  if (peer->ssl != NULL && SSL_accept(peer->ssl) <= 0) goto closed;
  for (;;) {
    ssize_t got = peer->ssl != NULL ? SSL_read(peer->ssl, peer->in + have, (int)(server_buffer_bytes - have))
                                    : read(peer->fd, peer->in + have, server_buffer_bytes - have);
    if (got <= 0) break;
    have += (size_t)got;
    size_t at = 0;
    for (;;) {
      size_t piece = skip < have - at ? skip : have - at;
      at += piece;
      skip -= piece;
      if (have - at < call_header_bytes) break;
      uint32_t mark = get32(peer->in + at);
      uint32_t call_bytes = (mark & ~LAST_FRAGMENT) + mark_bytes;
      if (!(mark & LAST_FRAGMENT) || call_bytes < call_header_bytes || call_bytes > max_record_bytes) goto closed;
      if (!answer(peer, peer->in + at)) goto closed;
      at += call_header_bytes;
      skip = call_bytes - call_header_bytes;
    }
    have -= at;
    memmove(peer->in, peer->in + at, have);
  }
closed:
  if (peer->ssl != NULL) SSL_free(peer->ssl);
  close(peer->fd);
  free(peer->in);
  free(peer->out);
  free(peer);
  return NULL;
}

static SSL *wrap(int fd) {
  SSL *ssl = SSL_new(tls_context);
  BIO *socket_bio = BIO_new_socket(fd, BIO_NOCLOSE), *buffer = BIO_new(BIO_f_buffer());
  if (ssl == NULL || socket_bio == NULL || buffer == NULL) die("out of memory");
  /* One write for many TLS records, so that the server is not what is measured. */
  BIO_set_write_buffer_size(buffer, server_buffer_bytes + (32 << 10));
  BIO_up_ref(socket_bio);
  SSL_set0_rbio(ssl, socket_bio);
  SSL_set0_wbio(ssl, BIO_push(buffer, socket_bio));
  return ssl;
}

static void accept_one(int listener, bool tls) {
  int one = 1, fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
  pthread_t thread;
  pthread_attr_t detached;
  if (fd < 0) return;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  struct peer *peer = allocate(sizeof *peer);
  peer->fd = fd;
  peer->ssl = tls ? wrap(fd) : NULL;
  peer->in = allocate(server_buffer_bytes);
  peer->out = allocate(server_buffer_bytes);
  pthread_attr_init(&detached);
  pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
  if (pthread_create(&thread, &detached, serve_peer, peer) != 0) die("cannot start a thread");
  pthread_attr_destroy(&detached);
}

static int open_listener(uint16_t *port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, length) != 0 || listen(fd, 1024) != 0) die("cannot listen");
  if (getsockname(fd, (struct sockaddr *)&address, &length) != 0) die("cannot listen");
  *port = ntohs(address.sin_port);
  return fd;
}

static void open_tls(const char *certificate, const char *key) {
  tls_context = SSL_CTX_new(TLS_server_method());
  if (tls_context == NULL || SSL_CTX_use_certificate_chain_file(tls_context, certificate) != 1 ||
      SSL_CTX_use_PrivateKey_file(tls_context, key, SSL_FILETYPE_PEM) != 1) {
    ERR_print_errors_fp(stderr);
    die("cannot use the certificate");
  }
  SSL_CTX_set_min_proto_version(tls_context, TLS1_2_VERSION);
  /* Every relay gets the same cipher, whatever it likes best. */
  SSL_CTX_set_options(tls_context, SSL_OP_CIPHER_SERVER_PREFERENCE);
  SSL_CTX_set_ciphersuites(tls_context, "TLS_AES_256_GCM_SHA384");
  SSL_CTX_set_cipher_list(tls_context, "ECDHE-RSA-AES256-GCM-SHA384");
  SSL_CTX_set_read_ahead(tls_context, 1);
  SSL_CTX_set_default_read_buffer_len(tls_context, server_buffer_bytes);
}

static int serve(const char *certificate, const char *key) {
  uint16_t tls_port, plain_port;
  struct pollfd wait[3] = {
      {.fd = open_listener(&tls_port), .events = POLLIN},
      {.fd = open_listener(&plain_port), .events = POLLIN},
      {.fd = STDIN_FILENO, .events = POLLIN},
  };
  char ignored[64];
  open_tls(certificate, key);
  printf("%u %u\n", tls_port, plain_port);
  fflush(stdout);
  for (;;) {
    if (poll(wait, 3, -1) < 0 && errno != EINTR) die("poll");
    if (wait[0].revents & POLLIN) accept_one(wait[0].fd, true);
    if (wait[1].revents & POLLIN) accept_one(wait[1].fd, false);
    if (wait[2].revents && read(STDIN_FILENO, ignored, sizeof ignored) <= 0) return 0;
  }
}

/* ---------------------------------------------------------------- drive */

enum { max_kinds = 8, sub_buckets = 64, buckets = 64 * sub_buckets };

struct kind {
  unsigned count;
  uint32_t call_bytes, reply_bytes;
  uint64_t calls;
  uint64_t latency[buckets]; /* nanoseconds, 64 steps for each power of two */
};

struct slot {
  struct kind *kind;
  uint64_t since_ns;
  uint32_t generation;
  uint8_t header[call_header_bytes];
};

struct client {
  int fd;
  bool wants_out;
  struct slot *slots;
  unsigned *queue; /* slots whose call waits to be sent, a ring */
  unsigned slot_count, head, waiting;
  size_t head_sent;
  uint8_t header[reply_header_bytes];
  size_t header_have, skip;
  struct slot *answered; /* whose reply is arriving */
};

static struct kind kinds[max_kinds];
static unsigned kind_count;
static uint8_t *zeros, *received;
static uint64_t total_calls, outstanding;
static bool measuring, draining;

static unsigned bucket_of(uint64_t ns) {
  if (ns < sub_buckets) return (unsigned)ns;
  unsigned power = 63 - (unsigned)__builtin_clzll(ns);
  return (power - 5) * sub_buckets + (unsigned)((ns >> (power - 6)) & (sub_buckets - 1));
}

static double bucket_us(unsigned bucket) {
  if (bucket < sub_buckets) return bucket / 1e3;
  unsigned power = bucket / sub_buckets + 5;
  return (double)((uint64_t)(sub_buckets + bucket % sub_buckets) << (power - 6)) / 1e3;
}

static double percentile_us(const struct kind *kind, double share) {
  uint64_t seen = 0;
  for (unsigned bucket = 0; bucket < buckets; bucket++) {
    seen += kind->latency[bucket];
    if (kind->calls > 0 && (double)seen >= share * (double)kind->calls) return bucket_us(bucket);
  }
  return 0;
}

static void enqueue(struct client *client, unsigned number, uint64_t now) {
  struct slot *slot = &client->slots[number];
  put32(slot->header + 4, slot->generation++ << 16 | number);
  slot->since_ns = now;
  client->queue[(client->head + client->waiting++) % client->slot_count] = number;
}

/* One send for each call, as the kernel's client does. */
static void send_waiting(struct client *client) {
  while (client->waiting > 0) {
    struct slot *slot = &client->slots[client->queue[client->head]];
    struct iovec pieces[2];
    struct msghdr message = {.msg_iov = pieces};
    size_t sent = client->head_sent;
    if (sent < call_header_bytes) {
      pieces[message.msg_iovlen++] = (struct iovec){slot->header + sent, call_header_bytes - sent};
      sent = call_header_bytes;
    }
    if (sent < slot->kind->call_bytes) pieces[message.msg_iovlen++] = (struct iovec){zeros, slot->kind->call_bytes - sent};
    ssize_t more = sendmsg(client->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (more < 0 && errno != EAGAIN) die("the relay closed the connection (send)");
    if (more < 0) break;
    client->head_sent += (size_t)more;
    if (client->head_sent < slot->kind->call_bytes) continue;
    client->head_sent = 0;
    client->head = (client->head + 1) % client->slot_count;
    client->waiting--;
  }
}

static void finish_reply(struct client *client, uint64_t now) {
  struct slot *slot = client->answered;
  total_calls++;
  if (measuring) {
    slot->kind->calls++;
    slot->kind->latency[bucket_of(now - slot->since_ns)]++;
  }
  client->answered = NULL;
  if (draining) outstanding--;
  else enqueue(client, (unsigned)(slot - client->slots), now);
}

static void start_reply(struct client *client) {
  uint32_t mark = get32(client->header), xid = get32(client->header + 4);
  if ((xid & 0xffff) >= client->slot_count) die("a reply to no call: the relay changed bytes");
  struct slot *slot = &client->slots[xid & 0xffff];
  bool expected = xid == get32(slot->header + 4) && mark == (LAST_FRAGMENT | (slot->kind->reply_bytes - mark_bytes));
  if (!expected) die("a reply is not what was asked for: the relay changed bytes");
  client->answered = slot;
  client->skip = slot->kind->reply_bytes - reply_header_bytes;
}

static void receive(struct client *client) {
  ssize_t got = recv(client->fd, received, client_buffer_bytes, MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) die("the relay closed the connection");
  uint64_t now = now_ns();
  size_t at = 0;
  while (at < (size_t)got) {
    size_t left = (size_t)got - at;
    if (client->answered == NULL) {
      size_t missing = reply_header_bytes - client->header_have;
      size_t piece = missing < left ? missing : left;
      memcpy(client->header + client->header_have, received + at, piece);
      client->header_have += piece;
      at += piece;
      if (client->header_have < reply_header_bytes) break;
      client->header_have = 0;
      start_reply(client);
    } else {
      size_t piece = client->skip < left ? client->skip : left;
      client->skip -= piece;
      at += piece;
    }
    if (client->skip == 0) finish_reply(client, now);
  }
}

static void connect_client(struct client *client, uint16_t port, int poller) {
  struct sockaddr_in address = {
      .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int one = 1;
  client->fd = socket(AF_INET, SOCK_STREAM, 0);
  if (client->fd < 0 || connect(client->fd, (struct sockaddr *)&address, sizeof address) != 0) die("cannot connect");
  setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  for (unsigned k = 0; k < kind_count; k++) client->slot_count += kinds[k].count;
  client->slots = allocate(client->slot_count * sizeof *client->slots);
  client->queue = allocate(client->slot_count * sizeof *client->queue);
  unsigned number = 0;
  for (unsigned k = 0; k < kind_count; k++) {
    for (unsigned i = 0; i < kinds[k].count; i++, number++) {
      struct slot *slot = &client->slots[number];
      slot->kind = &kinds[k];
      put32(slot->header, LAST_FRAGMENT | (kinds[k].call_bytes - mark_bytes));
      put32(slot->header + 12, 2);
      put32(slot->header + 16, nfs_program);
      put32(slot->header + 20, 4);
      put32(slot->header + 24, 1);
      put32(slot->header + call_header_bytes - 4, kinds[k].reply_bytes);
      enqueue(client, number, now_ns());
    }
  }
  outstanding += client->slot_count;
  client->wants_out = true;
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = client};
  if (epoll_ctl(poller, EPOLL_CTL_ADD, client->fd, &event) != 0) die("epoll");
}

static void turn(int poller, int timeout_ms) {
  struct epoll_event events[64];
  int ready = epoll_wait(poller, events, 64, timeout_ms);
  for (int i = 0; i < ready; i++) {
    struct client *client = events[i].data.ptr;
    if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive(client);
    send_waiting(client);
    bool wants_out = client->waiting > 0;
    if (wants_out == client->wants_out) continue;
    client->wants_out = wants_out;
    struct epoll_event event = {.events = EPOLLIN | (wants_out ? EPOLLOUT : 0), .data.ptr = client};
    epoll_ctl(poller, EPOLL_CTL_MOD, client->fd, &event);
  }
}

/* The kernel scales these two to the scheduler's own precise sum; only their unit is coarse. */
static double cpu_seconds(const char *pid) {
  char path[64], text[1024];
  unsigned long user, system;
  snprintf(path, sizeof path, "/proc/%s/stat", pid);
  FILE *file = fopen(path, "r");
  size_t length = file == NULL ? 0 : fread(text, 1, sizeof text - 1, file);
  if (file != NULL) fclose(file);
  text[length] = 0;
  char *after_name = strrchr(text, ')');
  if (after_name == NULL) return -1;
  if (sscanf(after_name + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2) return -1;
  return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

static void parse_kinds(char *text) {
  for (char *part = strtok(text, ","); part != NULL; part = strtok(NULL, ",")) {
    struct kind *kind = &kinds[kind_count];
    if (kind_count++ == max_kinds || sscanf(part, "%ux%u:%u", &kind->count, &kind->call_bytes, &kind->reply_bytes) != 3 ||
        kind->call_bytes < call_header_bytes || kind->reply_bytes < reply_header_bytes ||
        kind->call_bytes > max_record_bytes || kind->reply_bytes > max_record_bytes) {
      errno = 0;
      die("kinds are COUNTxCALL:REPLY, separated by commas");
    }
  }
}

static int drive(int argc, char **argv) {
  uint16_t port = (uint16_t)atoi(argv[0]);
  unsigned connections = (unsigned)atoi(argv[1]);
  parse_kinds(argv[2]);
  uint64_t warm_ns = (uint64_t)atoll(argv[3]) * 1000000u, measure_ns = (uint64_t)atoll(argv[4]) * 1000000u;
  char **pids = argv + 5;
  int pid_count = argc - 5, poller = epoll_create1(0);
  struct client *clients = allocate(connections * sizeof *clients);
  double *cpu = allocate((size_t)(pid_count + 1) * sizeof *cpu);
  zeros = allocate(max_record_bytes);
  received = allocate(client_buffer_bytes);

  uint64_t patience = now_ns() + 15000000000u;
  for (unsigned c = 0; c < connections; c++) connect_client(&clients[c], port, poller);
  while (total_calls < connections) {
    turn(poller, 100);
    if (now_ns() > patience) errno = 0, die("no answer within 15 s");
  }
  uint64_t begin = now_ns() + warm_ns;
  while (now_ns() < begin) turn(poller, 10);
  for (int i = 0; i < pid_count; i++) cpu[i] = cpu_seconds(pids[i]);
  begin = now_ns();
  measuring = true;
  while (now_ns() < begin + measure_ns) turn(poller, 10);
  uint64_t end = now_ns();
  for (int i = 0; i < pid_count; i++) cpu[i] = cpu_seconds(pids[i]) - cpu[i];
  measuring = false;
  draining = true;
  patience = now_ns() + 15000000000u;
  while (outstanding > 0) {
    turn(poller, 100);
    if (now_ns() > patience) errno = 0, die("calls stayed without answer for 15 s");
  }

  printf("{\"seconds\":%.6f,\"totalCalls\":%llu,\"kinds\":[", (double)(end - begin) / 1e9,
         (unsigned long long)total_calls);
  for (unsigned k = 0; k < kind_count; k++) {
    printf("%s{\"callBytes\":%u,\"replyBytes\":%u,\"calls\":%llu,\"p50Us\":%.1f,\"p99Us\":%.1f}", k > 0 ? "," : "",
           kinds[k].call_bytes, kinds[k].reply_bytes, (unsigned long long)kinds[k].calls,
           percentile_us(&kinds[k], 0.5), percentile_us(&kinds[k], 0.99));
  }
  printf("],\"cpuSeconds\":{");
  for (int i = 0; i < pid_count; i++) printf("%s\"%s\":%.3f", i > 0 ? "," : "", pids[i], cpu[i]);
  printf("}}\n");
  return 0;
}

int main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN);
  if ((argc == 4 || argc == 5) && strcmp(argv[1], "serve") == 0) {
    limit_bytes_per_second = argc == 5 ? strtoull(argv[4], NULL, 10) : 0;
    return serve(argv[2], argv[3]);
  }
  if (argc >= 7 && strcmp(argv[1], "drive") == 0) return drive(argc - 2, argv + 2);
  fprintf(stderr, "usage: load serve CERT KEY [BYTES_PER_SECOND] | load drive PORT CONNECTIONS KINDS WARM_MS MEASURE_MS [PID...]\n");
  return 2;
}
