/* The upstream of the benchmark: answers at once, in bursts or paced, as the model's name says.
 *
 *   b-plain          one JSON body
 *   b-stream-N-MS    a stream of N marked chunks, one every MS milliseconds; 0: one after the other, as fast as
 *                    they can be sent, each with a system call of its own
 *   b-response-N-MS  the same with the events of the Responses API
 *   b-embedding      one vector of 1,536 numbers
 *   b-late-MS        the JSON body of b-plain, so many milliseconds later
 *   b-refused        an error with status 400
 *
 * A GET is answered with the list of models that it was started with.
 * One thread, epoll, and a heap of due times. Usage:  upstream PORT-FILE MODEL…   (writes its port there when ready)
 */
#include "common.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

typedef struct {
    int fd;
    Buffer in, out;
    int chunks, next; /* of the stream under way: how many, and which is next; chunks 0: none */
    uint64_t interval, due;
    int wants_usage, is_response, is_late, heap_at, is_waiting_to_write;
} Conn;

#define DIMENSIONS 1536
static Buffer embedding, models;

static Conn **conns;
static size_t conns_room;
static Conn **heap;
static int heap_size, heap_room;
static int epoll_fd, timer_fd;
static uint64_t timer_set;

static void heap_put(int at, Conn *c) {
    heap[at] = c;
    c->heap_at = at;
}

static void heap_up(int at) {
    Conn *c = heap[at];
    for (; at && heap[(at - 1) / 2]->due > c->due; at = (at - 1) / 2) heap_put(at, heap[(at - 1) / 2]);
    heap_put(at, c);
}

static void heap_down(int at) {
    Conn *c = heap[at];
    for (;;) {
        int child = 2 * at + 1;
        if (child >= heap_size) break;
        if (child + 1 < heap_size && heap[child + 1]->due < heap[child]->due) child++;
        if (heap[child]->due >= c->due) break;
        heap_put(at, heap[child]);
        at = child;
    }
    heap_put(at, c);
}

static void heap_add(Conn *c) {
    if (heap_size == heap_room) {
        heap_room = heap_room ? 2 * heap_room : 1024;
        heap = realloc(heap, sizeof *heap * (size_t)heap_room);
    }
    heap[heap_size] = c;
    heap_up(heap_size++);
}

static void heap_remove(Conn *c) {
    int at = c->heap_at;
    if (at < 0) return;
    c->heap_at = -1;
    Conn *last = heap[--heap_size];
    if (last == c) return;
    heap_put(at, last);
    heap_up(at);
    heap_down(last->heap_at);
}

static void close_conn(Conn *c) {
    heap_remove(c);
    conns[c->fd] = NULL;
    close(c->fd);
    free(c->in.data);
    free(c->out.data);
    free(c);
}

/* False: the connection is gone. */
static int flush_out(Conn *c) {
    while (c->out.size) {
        ssize_t sent = send(c->fd, c->out.data, c->out.size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            if (!c->is_waiting_to_write) {
                struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.fd = c->fd};
                epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event);
                c->is_waiting_to_write = 1;
            }
            return 1;
        }
        if (sent < 0) {
            close_conn(c);
            return 0;
        }
        buffer_drop(&c->out, (size_t)sent);
    }
    if (c->is_waiting_to_write) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = c->fd};
        epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event);
        c->is_waiting_to_write = 0;
    }
    return 1;
}

static void add_event(Conn *c, const char *data, int size) {
    char length[16];
    int digits = snprintf(length, sizeof length, "%x\r\n", size);
    buffer_add(&c->out, length, (size_t)digits);
    buffer_add(&c->out, data, (size_t)size);
    buffer_add(&c->out, "\r\n", 2);
}

#define CHUNK_HEAD "data: {\"id\":\"chatcmpl-bench0001\",\"object\":\"chat.completion.chunk\"," \
                   "\"created\":1763900000,\"model\":\"b-stream\",\"system_fingerprint\":\"fp_bench\",\"choices\":"

#define RESPONSE "\"response\":{\"id\":\"resp_bench0001\",\"object\":\"response\",\"created_at\":1763900000," \
                 "\"model\":\"b-response\",\"status\":"

static void add_response_event(Conn *c) {
    char event[1024];
    int size;
    if (!c->next) {
        size = snprintf(event, sizeof event, "event: response.created\ndata: {\"type\":\"response.created\","
            "\"sequence_number\":0," RESPONSE "\"in_progress\",\"output\":[],\"usage\":null}}\n\n");
        add_event(c, event, size);
    }
    size = snprintf(event, sizeof event,
        "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"content_index\":0,"
        "\"delta\":\"%c%d%c%llu%c and so on\",\"item_id\":\"msg_bench0001\",\"logprobs\":[],"
        "\"obfuscation\":\"xYz0\",\"output_index\":0,\"sequence_number\":%d}\n\n",
        MARK, c->next, MARK, (unsigned long long)now_ns(), MARK, c->next + 1);
    add_event(c, event, size);
    if (++c->next < c->chunks) return;
    size = snprintf(event, sizeof event, "event: response.completed\ndata: {\"type\":\"response.completed\","
        "\"sequence_number\":%d," RESPONSE "\"completed\",\"output\":[{\"type\":\"message\",\"content\":[]}],"
        "\"usage\":{\"input_tokens\":21,\"input_tokens_details\":{\"cached_tokens\":0},\"output_tokens\":%d,"
        "\"output_tokens_details\":{\"reasoning_tokens\":0},\"total_tokens\":%d}}}\n\n",
        c->next + 1, c->chunks, c->chunks + 21);
    add_event(c, event, size);
    buffer_add(&c->out, "0\r\n\r\n", 5);
    c->chunks = 0;
}

static void add_chunk(Conn *c) {
    char event[512];
    if (c->is_response) {
        add_response_event(c);
        return;
    }
    int size = snprintf(event, sizeof event,
        CHUNK_HEAD "[{\"index\":0,\"delta\":{\"content\":\"%c%d%c%llu%c and so on\"},\"logprobs\":null,"
        "\"finish_reason\":null}]%s}\n\n",
        MARK, c->next, MARK, (unsigned long long)now_ns(), MARK, c->wants_usage ? ",\"usage\":null" : "");
    add_event(c, event, size);
    if (++c->next < c->chunks) return;
    size = snprintf(event, sizeof event,
        CHUNK_HEAD "[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}]%s}\n\n",
        c->wants_usage ? ",\"usage\":null" : "");
    add_event(c, event, size);
    if (c->wants_usage) {
        size = snprintf(event, sizeof event,
            CHUNK_HEAD "[],\"usage\":{\"prompt_tokens\":21,\"completion_tokens\":%d,\"total_tokens\":%d,"
            "\"prompt_tokens_details\":{\"cached_tokens\":0}}}\n\n", c->chunks, c->chunks + 21);
        add_event(c, event, size);
    }
    add_event(c, "data: [DONE]\n\n", 14);
    buffer_add(&c->out, "0\r\n\r\n", 5);
    c->chunks = 0;
}

static void add_json(Conn *c, const char *data, size_t size) {
    buffer_printf(&c->out, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
        "x-request-id: req_bench\r\n\r\n", size);
    buffer_add(&c->out, data, size);
}

static void add_plain(Conn *c) {
    static const char plain[] =
        "{\"id\":\"chatcmpl-bench0001\",\"object\":\"chat.completion\",\"created\":1763900000,\"model\":\"b-plain\","
        "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"A weir is a low barrier across "
        "a river: it raises the water, lets all of it pass, and is where the flow is measured.\",\"refusal\":null},"
        "\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":21,\"completion_tokens\":27,"
        "\"total_tokens\":48,\"prompt_tokens_details\":{\"cached_tokens\":0},\"completion_tokens_details\":"
        "{\"reasoning_tokens\":0}},\"system_fingerprint\":\"fp_bench\"}";
    add_json(c, plain, sizeof plain - 1);
}

static void make_embedding(void) {
    buffer_printf(&embedding, "{\"object\":\"list\",\"data\":[{\"object\":\"embedding\",\"index\":0,\"embedding\":[");
    for (int i = 0; i < DIMENSIONS; i++)
        buffer_printf(&embedding, "%s%.8f", i ? "," : "", (i % 7 - 3) * 0.01 + i * 0.00001234);
    buffer_printf(&embedding, "]}],\"model\":\"b-embedding\",\"usage\":{\"prompt_tokens\":21,\"total_tokens\":21}}");
}

static void make_models(int count, char **names) {
    buffer_printf(&models, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; i < count; i++)
        buffer_printf(&models, "%s{\"id\":\"%s\",\"object\":\"model\",\"created\":1763900000,\"owned_by\":\"bench\"}",
            i ? "," : "", names[i]);
    buffer_printf(&models, "]}");
}

static void answer(Conn *c, const char *body) {
    int chunks, interval_ms, late_ms;
    const char *late = strstr(body, "\"b-late-");
    if (late && sscanf(late, "\"b-late-%d\"", &late_ms) == 1) {
        c->is_late = 1;
        c->due = now_ns() + (uint64_t)late_ms * 1000000u;
        heap_add(c);
        return;
    }
    const char *model = strstr(body, "\"b-stream-"), *response = strstr(body, "\"b-response-");
    if (((model && sscanf(model, "\"b-stream-%d-%d\"", &chunks, &interval_ms) == 2) ||
         (response && sscanf(response, "\"b-response-%d-%d\"", &chunks, &interval_ms) == 2)) && chunks > 0) {
        buffer_printf(&c->out, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            "Transfer-Encoding: chunked\r\nCache-Control: no-cache\r\nx-request-id: req_bench\r\n\r\n");
        c->chunks = chunks;
        c->next = 0;
        c->is_response = response != NULL;
        c->wants_usage = strstr(body, "include_usage") != NULL;
        c->interval = (uint64_t)interval_ms * 1000000u;
        add_chunk(c);
        if (c->chunks && c->interval) {
            c->due = now_ns() + c->interval;
            heap_add(c);
        }
        return;
    }
    if (strstr(body, "\"b-refused\"")) {
        static const char refused[] = "{\"error\":{\"message\":\"no\",\"type\":\"invalid_request_error\"}}";
        buffer_printf(&c->out, "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"
            "Content-Length: %zu\r\n\r\n%s", sizeof refused - 1, refused);
        return;
    }
    if (strstr(body, "\"b-embedding\"")) add_json(c, embedding.data, embedding.size);
    else add_plain(c);
}

/* Send what is to go now. A burst goes on as long as the other side takes it. False: the connection is gone. */
static int send_now(Conn *c) {
    if (!flush_out(c)) return 0;
    while (c->chunks && !c->interval && !c->out.size) {
        add_chunk(c);
        if (!flush_out(c)) return 0;
    }
    return 1;
}

/* Answer every whole request that has arrived. */
static void take_requests(Conn *c) {
    while (c->in.size && !c->chunks && !c->is_late) {
        char *end = strstr(c->in.data, "\r\n\r\n");
        if (!end) break;
        size_t head = (size_t)(end - c->in.data) + 4, body = 0;
        const char *length = header(c->in.data, "content-length");
        const char *coding = header(c->in.data, "transfer-encoding");
        if (coding) { /* some clients send their bodies in chunks; looking for the last one will do here */
            char *last = strstr(end + 4, "0\r\n\r\n");
            if (!last) break;
            body = (size_t)(last - end - 4) + 5;
        } else if (length) {
            body = strtoul(length, NULL, 10);
        }
        if (c->in.size < head + body) break;
        char kept = c->in.data[head + body];
        c->in.data[head + body] = 0;
        if (!strncmp(c->in.data, "GET ", 4)) add_json(c, models.data, models.size);
        else answer(c, c->in.data + head);
        c->in.data[head + body] = kept;
        buffer_drop(&c->in, head + body);
        if (!send_now(c)) return;
    }
}

static void readable(Conn *c) {
    for (;;) {
        buffer_reserve(&c->in, 16384);
        ssize_t got = recv(c->fd, c->in.data + c->in.size, 16383, 0);
        if (got < 0 && errno == EAGAIN) break;
        if (got <= 0) {
            close_conn(c);
            return;
        }
        c->in.size += (size_t)got;
        c->in.data[c->in.size] = 0;
        if (got < 16383) break;
    }
    take_requests(c);
}

static void accept_all(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if ((size_t)fd >= conns_room) {
            size_t room = conns_room ? 2 * conns_room : 1024;
            while (room <= (size_t)fd) room *= 2;
            conns = realloc(conns, room * sizeof *conns);
            memset(conns + conns_room, 0, (room - conns_room) * sizeof *conns);
            conns_room = room;
        }
        Conn *c = calloc(1, sizeof *c);
        c->fd = fd;
        c->heap_at = -1;
        conns[fd] = c;
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
    }
}

static void send_due(void) {
    uint64_t now = now_ns();
    while (heap_size && heap[0]->due <= now) {
        Conn *c = heap[0];
        if (c->is_late) {
            c->is_late = 0;
            add_plain(c);
        } else {
            add_chunk(c);
        }
        if (c->chunks) {
            c->due += c->interval;
            heap_down(0);
        } else {
            heap_remove(c);
        }
        if (flush_out(c) && !c->chunks) take_requests(c);
    }
}

static void set_timer(void) {
    uint64_t due = heap_size ? heap[0]->due : 0;
    if (due == timer_set) return;
    timer_set = due;
    struct itimerspec at = {.it_value = {(time_t)(due / 1000000000u), (long)(due % 1000000000u)}};
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: %s PORT-FILE MODEL...\n", argv[0]);
        return 2;
    }
    make_embedding();
    make_models(argc - 2, argv + 2);
    struct rlimit files = {65536, 65536};
    setrlimit(RLIMIT_NOFILE, &files);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096)) die("listen");
    getsockname(listener, (struct sockaddr *)&address, &size);
    epoll_fd = epoll_create1(0);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event);
    event.data.fd = timer_fd;
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &event);
    FILE *ready = fopen(argv[1], "w");
    if (!ready) die(argv[1]);
    fprintf(ready, "%d\n", ntohs(address.sin_port));
    fclose(ready);
    for (;;) {
        struct epoll_event events[256];
        set_timer();
        int count = epoll_wait(epoll_fd, events, 256, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) accept_all(listener);
            else if (fd == timer_fd) {
                uint64_t ticks;
                if (read(timer_fd, &ticks, sizeof ticks) > 0) timer_set = 0;
            } else {
                Conn *c = conns[fd];
                if (c && events[i].events & EPOLLOUT) {
                    if (!send_now(c)) continue;
                    take_requests(c);
                    c = conns[fd];
                }
                if (c && events[i].events & ~(uint32_t)EPOLLOUT) readable(c);
            }
        }
        send_due();
    }
}
