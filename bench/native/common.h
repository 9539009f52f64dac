/* What the two load programs share: the clock, growing buffers, HTTP heads, and the mark inside each chunk. */
#ifndef WEIR_BENCH_COMMON_H
#define WEIR_BENCH_COMMON_H
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

/* A chunk's text is MARK seq MARK nanoseconds MARK: which one it is and when it was sent. A proxy that writes
 * the JSON anew leaves the text alone, so the marks come through all of them. */
#define MARK '~'

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline _Noreturn void die(const char *what) {
    perror(what);
    exit(1);
}

typedef struct {
    char *data;
    size_t size, room;
} Buffer;

static inline void buffer_reserve(Buffer *b, size_t more) {
    if (b->size + more <= b->room) return;
    size_t room = b->room ? b->room : 1024;
    while (room < b->size + more) room *= 2;
    b->data = realloc(b->data, room);
    if (!b->data) die("realloc");
    b->room = room;
}

static inline void buffer_add(Buffer *b, const char *data, size_t size) {
    buffer_reserve(b, size + 1);
    memcpy(b->data + b->size, data, size);
    b->size += size;
    b->data[b->size] = 0;
}

static inline void buffer_drop(Buffer *b, size_t size) {
    memmove(b->data, b->data + size, b->size - size);
    b->size -= size;
    if (b->data) b->data[b->size] = 0;
}

static inline void buffer_printf(Buffer *b, const char *format, ...) {
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (size < 0 || size >= (int)sizeof text) die("a text too long");
    buffer_add(b, text, (size_t)size);
}

/* The value of a header in a head that ends in NUL or CRLFCRLF; NULL without one. Names in any case. */
static inline const char *header(const char *head, const char *name) {
    size_t length = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line, "\r\n")) {
        line += 2;
        if (line[0] == '\r' || !line[0]) return NULL;
        if (!strncasecmp(line, name, length) && line[length] == ':') {
            line += length + 1;
            while (*line == ' ') line++;
            return line;
        }
    }
    return NULL;
}

#endif
