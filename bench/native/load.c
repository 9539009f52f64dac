/* The load client of the benchmark: keeps N connections busy and measures what comes back.
 *
 * Each connection sends its request again as soon as it was answered. After the measured time no more are sent and
 * those under way are awaited, so that every request sent was answered: their number can be compared with the books.
 * With `--users N` each request is another user's: the key's last eight characters are their number. With `--abort N`
 * a stream is left after N chunks; with `--status N` that is the status to be expected.
 * The result is one line of JSON. Times are CLOCK_MONOTONIC, which the upstream writes into its chunks, too.
 */
#include "common.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>

typedef struct {
    uint32_t *values; /* in 100 ns */
    size_t size, room;
} Samples;

typedef enum { IDLE, HEAD, SIZED, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER } Stage;

typedef struct {
    int fd, is_over;
    Stage stage;
    uint64_t start_at, sent_at, last_chunk_at;
    int status, is_first, next_seq, seen, is_done, is_closing, is_left;
    size_t left; /* of the body, or of the HTTP chunk */
    Buffer head, line;
} Conn;

static struct {
    const char *host, *path, *model, *key;
    int port, connections, chunks, is_stream, is_held, abort_after, status;
    unsigned long long users, from;
    double seconds, warmup, ramp;
    Buffer headers;
} options = {.host = "127.0.0.1", .path = "/v1/chat/completions", .model = "b-plain", .key = "none",
             .connections = 32, .seconds = 5, .warmup = 1, .status = 200};

static Conn *conns;
static Buffer request;
static char *key_digits; /* in the request, where users differ */
static int epoll_fd;
static uint64_t begin, window_from, window_to;
static Samples latencies, first_bytes, delays, gaps;
static uint64_t sent, answered, measured, failed, bad_status, broken, chunks_seen, lost, reordered, unfinished, bytes;
static uint64_t first_chunks;
static int is_stopping;
static char first_error[160];

static void sample(Samples *s, uint64_t ns) {
    if (s->size == s->room) {
        s->room = s->room ? 2 * s->room : 65536;
        s->values = realloc(s->values, s->room * sizeof *s->values);
        if (!s->values) die("realloc");
    }
    uint64_t value = ns / 100;
    s->values[s->size++] = value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
}

static int is_measured(uint64_t at) { return at >= window_from && at < window_to; }

static void note_error(const char *what, const char *detail) {
    if (!first_error[0]) {
        snprintf(first_error, sizeof first_error, "%s: %.100s", what, detail);
        for (char *c = first_error; *c; c++) if (*c < ' ' || *c == '"' || *c == '\\') *c = ' ';
    }
}

static void connect_conn(Conn *c) {
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    inet_pton(AF_INET, options.host, &address.sin_addr);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) die("connect");
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)(c - conns)};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event);
}

/* Users come in an order that no index has; all of them before any comes again, as long as STRIDE divides none of
 * their number. */
#define STRIDE 7919u
#define DIGITS 8

static void next_user(void) {
    char digits[24];
    snprintf(digits, sizeof digits, "%0*llu", DIGITS, (options.from + sent) * STRIDE % options.users);
    memcpy(key_digits, digits, DIGITS);
}

static void send_request(Conn *c) {
    if (c->fd < 0) connect_conn(c);
    if (options.users) next_user();
    c->stage = HEAD;
    c->status = c->seen = c->next_seq = c->is_done = c->is_closing = c->is_left = 0;
    c->is_first = 1;
    c->last_chunk_at = 0;
    c->head.size = c->line.size = 0;
    c->sent_at = now_ns();
    sent++;
    if (send(c->fd, request.data, request.size, MSG_NOSIGNAL) != (ssize_t)request.size) die("send");
}

static void ended(Conn *c, int is_good) {
    uint64_t now = now_ns();
    c->stage = IDLE;
    answered++;
    if (c->status != options.status) bad_status++;
    if (!is_good) broken++;
    if (c->status != options.status || !is_good) failed++;
    else if (options.is_stream && !options.abort_after) {
        if (c->seen < options.chunks) lost += (uint64_t)(options.chunks - c->seen);
        if (!c->is_done) unfinished++;
    }
    if (is_measured(now)) {
        measured++;
        sample(&latencies, now - c->sent_at);
    }
    if (!is_good || c->is_closing) {
        close(c->fd);
        c->fd = -1;
    }
    if (is_stopping || now >= window_to) c->is_over = 1;
    else if (failed > 1000) c->is_over = is_stopping = 1;
    else send_request(c);
}

/* One line of a stream: count its mark. */
static void take_line(Conn *c, const char *line, size_t size, uint64_t now) {
    if (size < 6 || memcmp(line, "data:", 5)) return;
    const char *mark = memchr(line, MARK, size);
    if (!mark) {
        if (memmem(line, size, "[DONE]", 6) || memmem(line, size, "\"response.completed\"", 20)) c->is_done = 1;
        return;
    }
    char *end;
    long seq = strtol(mark + 1, &end, 10);
    uint64_t at = strtoull(end + 1, NULL, 10);
    if (seq != c->next_seq) reordered++;
    c->next_seq = (int)seq + 1;
    c->seen++;
    if (c->seen == 1) first_chunks++;
    if (is_measured(now)) {
        chunks_seen++;
        sample(&delays, now - at);
        if (c->last_chunk_at) sample(&gaps, now - c->last_chunk_at);
    }
    c->last_chunk_at = now;
    if (options.abort_after && c->seen >= options.abort_after) c->is_left = c->is_closing = 1;
}

static void take_body(Conn *c, const char *data, size_t size, uint64_t now) {
    if (c->is_first) {
        c->is_first = 0;
        if (is_measured(now)) sample(&first_bytes, now - c->sent_at);
    }
    bytes += size;
    if (c->status != options.status) note_error("status", data);
    if (!options.is_stream) return;
    const char *end = data + size, *newline;
    while ((newline = memchr(data, '\n', (size_t)(end - data)))) {
        if (c->line.size) {
            buffer_add(&c->line, data, (size_t)(newline - data));
            take_line(c, c->line.data, c->line.size, now);
            c->line.size = 0;
        } else {
            take_line(c, data, (size_t)(newline - data), now);
        }
        data = newline + 1;
    }
    if (data < end) buffer_add(&c->line, data, (size_t)(end - data));
}

/* The head is complete: what follows? */
static void begin_body(Conn *c) {
    const char *head = c->head.data, *length = header(head, "content-length");
    const char *coding = header(head, "transfer-encoding"), *connection = header(head, "connection");
    c->status = atoi(head + 9);
    c->is_closing = connection && !strncasecmp(connection, "close", 5);
    if (coding) c->stage = CHUNK_SIZE;
    else {
        c->stage = SIZED;
        c->left = length ? strtoul(length, NULL, 10) : 0;
    }
    c->head.size = 0;
}

static void take(Conn *c, const char *data, size_t size, uint64_t now) {
    const char *end = data + size;
    while (data < end || (c->stage == SIZED && !c->left)) {
        size_t room = (size_t)(end - data), part;
        switch (c->stage) {
        case IDLE:
            note_error("bytes beyond the answer", data);
            failed++;
            return;
        case HEAD: {
            size_t before = c->head.size, from = before > 3 ? before - 3 : 0;
            buffer_add(&c->head, data, room);
            char *stop = memmem(c->head.data + from, c->head.size - from, "\r\n\r\n", 4);
            if (!stop) return;
            size_t head = (size_t)(stop - c->head.data) + 4;
            data += head - before;
            stop[4] = 0;
            begin_body(c);
            break;
        }
        case SIZED:
            part = room < c->left ? room : c->left;
            if (part) take_body(c, data, part, now);
            c->left -= part;
            data += part;
            if (!c->left) {
                ended(c, data == end);
                return;
            }
            break;
        case CHUNK_SIZE:
        case TRAILER: {
            const char *newline = memchr(data, '\n', room);
            buffer_add(&c->head, data, newline ? (size_t)(newline - data) + 1 : room);
            if (!newline) return;
            data = newline + 1;
            if (c->stage == TRAILER) {
                if (c->head.size == 2) {
                    ended(c, data == end);
                    return;
                }
            } else {
                c->left = strtoul(c->head.data, NULL, 16);
                c->stage = c->left ? CHUNK_DATA : TRAILER;
            }
            c->head.size = 0;
            break;
        }
        case CHUNK_DATA:
            part = room < c->left ? room : c->left;
            take_body(c, data, part, now);
            c->left -= part;
            data += part;
            if (!c->left) {
                c->stage = CHUNK_END;
                c->left = 2;
            }
            break;
        case CHUNK_END:
            part = room < c->left ? room : c->left;
            c->left -= part;
            data += part;
            if (!c->left) c->stage = CHUNK_SIZE;
            break;
        }
    }
}

static void readable(Conn *c) {
    static char data[262144];
    if (c->fd < 0) return;
    ssize_t got = recv(c->fd, data, sizeof data - 1, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        if (c->stage != IDLE) {
            note_error("cut off", strerror(got ? errno : 0));
            ended(c, 0);
        } else {
            close(c->fd);
            c->fd = -1;
        }
        return;
    }
    data[got] = 0;
    take(c, data, (size_t)got, now_ns());
    if (c->is_left && c->stage != IDLE) ended(c, 1);
}

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void print_samples(const char *name, Samples *s) {
    static const double shares[] = {0.5, 0.9, 0.99, 0.999, 1};
    static const char *labels[] = {"p50", "p90", "p99", "p999", "max"};
    qsort(s->values, s->size, sizeof *s->values, by_value);
    printf(", \"%s\": {\"count\": %zu", name, s->size);
    for (int i = 0; i < 5 && s->size; i++) {
        size_t at = (size_t)(shares[i] * (double)s->size);
        printf(", \"%s\": %.4f", labels[i], s->values[at < s->size ? at : s->size - 1] / 1e4);
    }
    printf("}");
}

static void report(void) {
    printf("{\"seconds\": %.3f, \"sent\": %llu, \"answered\": %llu, \"measured\": %llu, \"failed\": %llu, "
        "\"bad_status\": %llu, \"broken\": %llu, \"chunks\": %llu, \"lost\": %llu, \"reordered\": %llu, "
        "\"unfinished\": %llu, \"bytes\": %llu, \"error\": \"%s\"",
        (double)(window_to - window_from) / 1e9, (unsigned long long)sent, (unsigned long long)answered,
        (unsigned long long)measured, (unsigned long long)failed, (unsigned long long)bad_status,
        (unsigned long long)broken, (unsigned long long)chunks_seen, (unsigned long long)lost,
        (unsigned long long)reordered, (unsigned long long)unfinished, (unsigned long long)bytes, first_error);
    print_samples("latency_ms", &latencies);
    print_samples("first_byte_ms", &first_bytes);
    print_samples("delay_ms", &delays);
    print_samples("gap_ms", &gaps);
    printf("}\n");
    fflush(stdout);
}

static void read_options(int argc, char **argv) {
    static const struct option known[] = {
        {"port", 1, 0, 'p'}, {"path", 1, 0, 'P'}, {"model", 1, 0, 'm'}, {"key", 1, 0, 'k'}, {"header", 1, 0, 'H'},
        {"connections", 1, 0, 'c'}, {"seconds", 1, 0, 's'}, {"warmup", 1, 0, 'w'}, {"ramp", 1, 0, 'r'},
        {"chunks", 1, 0, 'n'}, {"hold", 0, 0, 'h'}, {"users", 1, 0, 'u'}, {"from", 1, 0, 'f'}, {"abort", 1, 0, 'a'},
        {"status", 1, 0, 'S'},         {0, 0, 0, 0}};
    for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (option) {
        case 'p': options.port = atoi(optarg); break;
        case 'P': options.path = optarg; break;
        case 'm': options.model = optarg; break;
        case 'k': options.key = optarg; break;
        case 'H': buffer_printf(&options.headers, "%s\r\n", optarg); break;
        case 'c': options.connections = atoi(optarg); break;
        case 's': options.seconds = atof(optarg); break;
        case 'w': options.warmup = atof(optarg); break;
        case 'r': options.ramp = atof(optarg); break;
        case 'n': options.chunks = atoi(optarg); options.is_stream = 1; break;
        case 'h': options.is_held = 1; break;
        case 'u': options.users = strtoull(optarg, NULL, 10); break;
        case 'f': options.from = strtoull(optarg, NULL, 10); break;
        case 'S': options.status = atoi(optarg); break;
        case 'a': options.abort_after = atoi(optarg); break;
        default: exit(2);
        }
    }
}

static void make_request(void) {
    Buffer body = {0};
    int is_response = strstr(options.path, "/responses") != NULL;
    if (strstr(options.path, "/embeddings"))
        buffer_printf(&body, "{\"model\":\"%s\",\"input\":\"What is a weir, and what is it for? Tell me in two "
            "sentences, please, as you would tell a child that stands beside one.\"}", options.model);
    else buffer_printf(&body, "{\"model\":\"%s\",\"%s\":[{\"role\":\"system\",\"content\":\"You answer briefly and "
        "say so when you do not know.\"},{\"role\":\"user\",\"content\":\"What is a weir, and what is it for? Tell "
        "me in two sentences, please, as you would tell a child that stands beside one.\"}],\"%s\":256%s}",
        options.model, is_response ? "input" : "messages", is_response ? "max_output_tokens" : "max_tokens",
        options.is_stream ? ",\"stream\":true" : "");
    buffer_printf(&request, "POST %s HTTP/1.1\r\nHost: %s:%d\r\nAuthorization: Bearer %s\r\n"
        "Content-Type: application/json\r\nAccept: application/json\r\nUser-Agent: weir-bench/1\r\n"
        "Content-Length: %zu\r\n", options.path, options.host, options.port, options.key, body.size);
    if (options.headers.size) buffer_add(&request, options.headers.data, options.headers.size);
    buffer_add(&request, "\r\n", 2);
    buffer_add(&request, body.data, body.size);
    if (options.users) {
        if (strlen(options.key) < DIGITS) die("--users needs a longer key");
        key_digits = strstr(request.data, options.key) + strlen(options.key) - DIGITS;
    }
}

/* Milliseconds until the next connection is to begin, -1 if all have; begins those that are due. */
static int start_due(int *started) {
    uint64_t now = now_ns();
    while (*started < options.connections && conns[*started].start_at <= now) send_request(&conns[(*started)++]);
    return *started < options.connections ? 1 : -1;
}

int main(int argc, char **argv) {
    read_options(argc, argv);
    struct rlimit files = {65536, 65536};
    setrlimit(RLIMIT_NOFILE, &files);
    make_request();
    epoll_fd = epoll_create1(0);
    conns = calloc((size_t)options.connections, sizeof *conns);
    begin = now_ns();
    window_from = begin + (uint64_t)((options.ramp + options.warmup) * 1e9);
    window_to = window_from + (uint64_t)(options.seconds * 1e9);
    for (int i = 0; i < options.connections; i++) {
        conns[i].fd = -1;
        conns[i].start_at = begin + (uint64_t)(options.ramp * 1e9 * i / options.connections);
    }
    int started = 0, is_open_told = 0, over = 0;
    uint64_t give_up = window_to + 60000000000u;
    while (over < options.connections) {
        struct epoll_event events[512];
        int wait = start_due(&started);
        int count = epoll_wait(epoll_fd, events, 512, wait < 0 ? 100 : wait);
        for (int i = 0; i < count; i++) readable(&conns[events[i].data.u32]);
        if (options.is_held && !is_open_told && first_chunks >= (uint64_t)options.connections) {
            is_open_told = 1; /* all streams are open: say so, and leave when told */
            printf("{\"open\": %d}\n", options.connections);
            fflush(stdout);
            if (getchar() == EOF) return 0;
            return 0;
        }
        over = 0;
        if (is_stopping || now_ns() >= window_to) {
            for (int i = 0; i < options.connections; i++) over += conns[i].is_over || i >= started;
            if (now_ns() > give_up) {
                note_error("gave up", "answers are still missing");
                failed++;
                break;
            }
            started = started < options.connections && now_ns() >= window_to ? options.connections : started;
        }
    }
    report();
    return 0;
}
