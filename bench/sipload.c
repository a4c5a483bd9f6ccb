/*
 * sipload - SIP instant-messaging load generator: UAC and UAS in one process,
 * TCP or TLS on either side, session mode (INVITE, N x MESSAGE, BYE) or page
 * mode (MESSAGE outside a dialog), or a watcher (SUBSCRIBE, then idle).
 * Either side may be left out: without --uas it only calls, with --dialogs 0
 * it only answers.  One thread, epoll, one write (one TLS record) per SIP
 * message.  Prints one JSON object on stdout.
 *
 * It also samples CPU time and resident memory of the processes given with
 * --pids at both ends of the measured window, so that "CPU per 1000 messages"
 * comes from the same window as the message count.
 *
 * Build: make.   Manual: ./sipload --help
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000LL
#define MAX_VALUES 16
#define MAX_PIDS 256

typedef struct { const char *p; int n; } str;

/* ---------------------------------------------------------------- options */

static struct {
    const char *proxy_host, *uas_host, *ruri, *to_domain, *from_domain, *route;
    const char *cert, *key, *ca, *page_ruri, *contact_host, *to_uri;
    int proxy_port, uas_port, conns, dialogs, msgs, body, users;
    bool proxy_tls, uas_tls, page, subscribe;
    double duration, warmup, rate, ramp, linger;
    int pids[MAX_PIDS], npids;
} opt = {
    .proxy_host = "127.0.0.1", .uas_host = "127.0.0.1", .proxy_port = 5061,
    .uas_port = 0, .conns = 4, .dialogs = 100, .msgs = 100, .body = 120,
    .users = 1000, .proxy_tls = true, .uas_tls = true, .duration = 10,
    .warmup = 3, .ramp = 2000, .to_domain = "b.example.net", .from_domain = "a.example.org",
};

/* ------------------------------------------------------------------ state */

typedef struct { char *p; size_t len, cap, off; } buf;

enum kind { K_LISTEN, K_UAC, K_UAS };

typedef struct conn {
    enum kind kind;
    int fd, id;
    SSL *ssl;
    bool connecting, handshaking, up, armed_out, dead;
    buf in, out;
} conn;

enum dstate { D_NONE, D_INVITE, D_READY, D_MESSAGE, D_BYE };

typedef struct {
    enum dstate state;
    int id, conn, sent, cseq;
    unsigned gen;
    int64_t t0;              /* when the outstanding request was due */
    int64_t t_sent;          /* when it was really written */
    char to[300], target[256], route[1024];
} dialog;

static int ep;
static SSL_CTX *cctx, *sctx;
static conn **uac;
static dialog *dlg;
static int *ready, ready_head, ready_n;
static int64_t now_ns, backlog_next, interval_ns;
static bool measuring, stopping;

static struct {
    uint64_t messages, invites, byes, errors, timeouts, uas_requests, last_error;
    uint64_t late, subscribed, notified;
} st;

/* latency histogram: 1 us steps below 10 ms, 100 us steps to 10 s */
static uint64_t h_fine[10000], h_coarse[100001];
static int64_t h_max;

static int64_t mono(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * NS + t.tv_nsec;
}

static void die(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(2);
}

static void record(int64_t ns)
{
    int64_t us = ns / 1000;
    if (us < 10000) h_fine[us < 0 ? 0 : us]++;
    else h_coarse[us / 100 > 100000 ? 100000 : us / 100]++;
    if (ns > h_max) h_max = ns;
}

static double quantile(double q, uint64_t total)
{
    uint64_t want = (uint64_t)(q * (double)total), seen = 0;
    for (int i = 0; i < 10000; i++) if ((seen += h_fine[i]) > want) return i / 1000.0;
    for (int i = 0; i <= 100000; i++) if ((seen += h_coarse[i]) > want) return i / 10.0;
    return h_max / 1e6;
}

/* ------------------------------------------------- CPU of other processes */

static double cpu_of(int pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *d = opendir(path);
    if (!d) return 0;
    double total = 0;
    for (struct dirent *e; (e = readdir(d)); ) {
        char p[400];
        unsigned long long ns = 0;
        if (e->d_name[0] == '.') continue;
        snprintf(p, sizeof p, "/proc/%d/task/%s/schedstat", pid, e->d_name);
        FILE *f = fopen(p, "r");
        if (!f) continue;
        if (fscanf(f, "%llu", &ns) == 1) total += ns / 1e9;
        fclose(f);
    }
    closedir(d);
    return total;
}

static long rss_kib(int pid)
{
    char path[64], line[200];
    long kib = 0;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *f = fopen(path, "r");
    if (!f) return 0;
    while (fgets(line, sizeof line, f)) if (sscanf(line, "VmRSS: %ld", &kib) == 1) break;
    fclose(f);
    return kib;
}

static double own_cpu(void)
{
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return r.ru_utime.tv_sec + r.ru_stime.tv_sec + (r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

static double pids_cpu(double *each)
{
    double t = 0;
    for (int i = 0; i < opt.npids; i++) t += each[i] = cpu_of(opt.pids[i]);
    return t;
}

/* ---------------------------------------------------------------- buffers */

static char *room(buf *b, size_t n)
{
    if (b->off && (b->off == b->len || b->len + n > b->cap)) {
        memmove(b->p, b->p + b->off, b->len - b->off);
        b->len -= b->off;
        b->off = 0;
    }
    if (b->len + n > b->cap) {
        b->cap = (b->len + n) * 2;
        b->p = realloc(b->p, b->cap);
    }
    return b->p + b->len;
}

static void arm(conn *c, bool out)
{
    if (c->armed_out == out) return;
    c->armed_out = out;
    struct epoll_event ev = { .events = EPOLLIN | (out ? EPOLLOUT : 0), .data.ptr = c };
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &ev);
}

static void conn_lost(conn *c, const char *why)
{
    if (c->dead) return;
    c->dead = true;
    epoll_ctl(ep, EPOLL_CTL_DEL, c->fd, NULL);
    close(c->fd);
    if (c->kind == K_UAC && !stopping) die("UAC connection %d lost: %s", c->id, why);
}

/* returns bytes written, 0 when it would block, -1 on error */
static int put(conn *c, const char *p, size_t n)
{
    if (c->ssl) {
        int r = SSL_write(c->ssl, p, (int)n);
        if (r > 0) return r;
        int e = SSL_get_error(c->ssl, r);
        if (e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE) return 0;
        ERR_clear_error();
        return -1;
    }
    ssize_t r = write(c->fd, p, n);
    if (r >= 0) return (int)r;
    return errno == EAGAIN || errno == EINTR ? 0 : -1;
}

static void flush_out(conn *c)
{
    while (c->out.off < c->out.len) {
        int r = put(c, c->out.p + c->out.off, c->out.len - c->out.off);
        if (r < 0) { conn_lost(c, "write"); return; }
        if (!r) break;
        c->out.off += (size_t)r;
    }
    arm(c, c->out.off < c->out.len);
}

static void send_msg(conn *c, const char *p, size_t n)
{
    if (c->dead) return;
    if (c->up && c->out.off == c->out.len) {
        int r = put(c, p, n);
        if (r < 0) { conn_lost(c, "write"); return; }
        if ((size_t)r == n) return;
        p += r;
        n -= (size_t)r;
    }
    memcpy(room(&c->out, n), p, n);
    c->out.len += n;
    if (c->up) arm(c, true);
}

/* ------------------------------------------------------------ SIP parsing */

typedef struct {
    bool request;
    int status;
    str method, head, body, from, to, callid, cseq, contact;
    str via[MAX_VALUES], rr[MAX_VALUES];
    int nvia, nrr;
} sipmsg;

static str trim(const char *p, const char *e)
{
    while (p < e && (*p == ' ' || *p == '\t')) p++;
    while (e > p && (e[-1] == ' ' || e[-1] == '\t')) e--;
    return (str){ p, (int)(e - p) };
}

static bool is(str s, const char *name) { return (int)strlen(name) == s.n && !strncasecmp(s.p, name, (size_t)s.n); }

static int split_commas(str v, str *out, int n)
{
    int depth = 0;
    bool quoted = false;
    const char *start = v.p, *e = v.p + v.n;
    for (const char *p = v.p; ; p++) {
        if (p == e || (*p == ',' && !depth && !quoted)) {
            if (n < MAX_VALUES) out[n++] = trim(start, p);
            start = p + 1;
            if (p == e) break;
        } else if (*p == '"') quoted = !quoted;
        else if (*p == '<') depth++;
        else if (*p == '>') depth--;
    }
    return n;
}

/* one message at p; returns its length, 0 when incomplete, -1 when malformed */
static long parse(const char *p, size_t n, sipmsg *m)
{
    size_t skip = 0;
    while (skip + 1 < n && p[skip] == '\r' && p[skip + 1] == '\n') skip += 2;
    const char *s = p + skip, *end = memmem(s, n - skip, "\r\n\r\n", 4);
    if (!end) return 0;
    memset(m, 0, sizeof *m);
    m->head = (str){ s, (int)(end - s) };
    const char *eol = memmem(s, (size_t)(end + 2 - s), "\r\n", 2);
    if (!strncmp(s, "SIP/2.0 ", 8)) m->status = atoi(s + 8);
    else {
        const char *sp = memchr(s, ' ', (size_t)(eol - s));
        if (!sp) return -1;
        m->request = true;
        m->method = (str){ s, (int)(sp - s) };
    }
    long clen = 0;
    for (const char *l = eol + 2; l < end + 2; l = eol + 2) {
        eol = memmem(l, (size_t)(end + 2 - l), "\r\n", 2);
        const char *colon = memchr(l, ':', (size_t)(eol - l));
        if (!colon) return -1;
        str name = trim(l, colon), v = trim(colon + 1, eol);
        if (is(name, "via") || is(name, "v")) m->nvia = split_commas(v, m->via, m->nvia);
        else if (is(name, "record-route")) m->nrr = split_commas(v, m->rr, m->nrr);
        else if (is(name, "from") || is(name, "f")) m->from = v;
        else if (is(name, "to") || is(name, "t")) m->to = v;
        else if (is(name, "call-id") || is(name, "i")) m->callid = v;
        else if (is(name, "cseq")) m->cseq = v;
        else if (is(name, "contact") || is(name, "m")) m->contact = v;
        else if (is(name, "content-length") || is(name, "l")) clen = atol(v.p);
    }
    size_t total = (size_t)(end + 4 - p) + (size_t)clen;
    if (total > n) return 0;
    m->body = (str){ end + 4, (int)clen };
    return (long)total;
}

/* -------------------------------------------------------------------- UAC */

static char filler[65536];

static const char *tname(bool tls) { return tls ? "TLS" : "TCP"; }

static const char *expand(const char *tpl, int user, char *out, size_t cap)
{
    const char *d = strstr(tpl, "%d");
    if (!d) return tpl;
    snprintf(out, cap, "%.*s%d%s", (int)(d - tpl), tpl, user, d + 2);
    return out;
}

static int put_body(char *b)
{
    int n = sprintf(b, "T%lld;", (long long)mono());
    if (n < opt.body) { memcpy(b + n, filler, (size_t)(opt.body - n)); n = opt.body; }
    return n;
}

static void uac_send(dialog *d, const char *method, const char *ruri, int64_t due, bool refused)
{
    char m[8192], body[65600], route[1200] = "";
    int blen = 0;
    bool ack = !strcmp(method, "ACK"), inv = !strcmp(method, "INVITE"), msg = !strcmp(method, "MESSAGE");
    const char *ctype = "";
    char port[] = "5071";
    if (inv) {
        blen = sprintf(body,
            "v=0\r\no=- 1700000000 %u IN IP4 127.0.0.1\r\ns=session\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
            "m=message 5060 sip sip:u%d@%s\r\na=accept-types:text/plain text/html application/im-iscomposing+xml\r\n"
            "a=sendrecv\r\n", d->gen, d->id, opt.from_domain);
        ctype = "Content-Type: application/sdp\r\n";
    } else if (msg) {
        blen = put_body(body);
        ctype = "Content-Type: text/plain;charset=UTF-8\r\n";
    }
    bool sub = !strcmp(method, "SUBSCRIBE");
    if (d->route[0]) strcpy(route, d->route);
    else if (opt.route) snprintf(route, sizeof route, "Route: %s\r\n", opt.route);
    if (!ack) d->cseq++;
    int n = snprintf(m, sizeof m,
        "%s %s SIP/2.0\r\n"
        "Via: SIP/2.0/%s %s:%s;branch=z9hG4bKs%d.%u.%d%s;rport\r\n"
        "%s"
        "Max-Forwards: 70\r\n"
        "From: \"User %d\" <sip:u%d@%s>;tag=f%d.%u\r\n"
        "To: %s\r\n"
        "Call-ID: %08x-%08x-%d-%u@%s\r\n"
        "CSeq: %d %s\r\n",
        method, ruri, tname(opt.proxy_tls), opt.contact_host, port, d->id, d->gen, d->cseq, ack && !refused ? "a" : "",
        route, d->id, d->id, opt.from_domain, d->id, d->gen, d->to,
        0x9e3779b9u * (unsigned)d->id, getpid(), d->id, d->gen, opt.from_domain, d->cseq, method);
    if (!ack)
        n += snprintf(m + n, sizeof m - (size_t)n,
            "Contact: <sip:u%d@%s:%s;transport=%s>\r\n"
            "User-Agent: sipload/1.0 (load generator)\r\n"
            "Supported: replaces, 100rel, eventlist, timer\r\n"
            "Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, MESSAGE, SUBSCRIBE, NOTIFY\r\n",
            d->id, opt.contact_host, port, opt.proxy_tls ? "tls" : "tcp");
    if (sub)
        n += snprintf(m + n, sizeof m - (size_t)n,
            "Event: presence\r\nAccept: application/pidf+xml\r\nExpires: 7200\r\n");
    if (inv)
        n += snprintf(m + n, sizeof m - (size_t)n,
            "Accept: application/sdp, text/plain, message/cpim\r\n"
            "Accept-Language: en\r\nSession-Expires: 1800;refresher=uac\r\nMin-SE: 90\r\n"
            "P-Asserted-Identity: <sip:u%d@%s>\r\n", d->id, opt.from_domain);
    n += snprintf(m + n, sizeof m - (size_t)n, "%sContent-Length: %d\r\n\r\n", ctype, blen);
    memcpy(m + n, body, (size_t)blen);
    n += blen;
    if (!ack) { d->t0 = due; d->t_sent = now_ns; }
    send_msg(uac[d->conn], m, (size_t)n);
}

static void dialog_start(dialog *d)
{
    char u[256];
    d->gen++;
    d->sent = d->cseq = 0;
    d->route[0] = 0;
    if (opt.to_uri) snprintf(d->to, sizeof d->to, "<%s>", expand(opt.to_uri, d->id % opt.users, u, sizeof u));
    else snprintf(d->to, sizeof d->to, "<sip:v%d@%s>", d->id % opt.users, opt.to_domain);
    if (opt.page) {
        snprintf(d->target, sizeof d->target, "%s", expand(opt.page_ruri, d->id % opt.users, u, sizeof u));
        snprintf(d->to, sizeof d->to, "<%s>", d->target);
        char *semi = strchr(d->to, ';');
        if (semi) strcpy(semi, ">");
        d->state = D_READY;
        return;
    }
    snprintf(d->target, sizeof d->target, "%s", expand(opt.ruri, d->id % opt.users, u, sizeof u));
    d->state = D_INVITE;
    uac_send(d, opt.subscribe ? "SUBSCRIBE" : "INVITE", d->target, now_ns, false);
}

static void dialog_message(dialog *d, int64_t due)
{
    d->state = D_MESSAGE;
    d->sent++;
    uac_send(d, "MESSAGE", d->target, due, false);
}

/* the dialog may send again: at once in a closed loop, when due in an open one */
static void dialog_ready(dialog *d)
{
    d->state = D_READY;
    if (stopping) return;
    if (interval_ns) {
        ready[(ready_head + ready_n++) % opt.dialogs] = d->id;
        return;
    }
    dialog_message(d, now_ns);
}

static void run_schedule(void)
{
    while (interval_ns && ready_n && backlog_next <= now_ns) {
        dialog *d = &dlg[ready[ready_head]];
        ready_head = (ready_head + 1) % opt.dialogs;
        ready_n--;
        if (measuring && now_ns - backlog_next > 1000000) st.late++;
        dialog_message(d, backlog_next);
        backlog_next += interval_ns;
    }
}

static void uac_response(sipmsg *m)
{
    if (!m->nvia) { st.errors++; return; }
    const char *b = memmem(m->via[0].p, (size_t)m->via[0].n, "z9hG4bKs", 8);
    int id, cseq;
    unsigned gen;
    if (!b || sscanf(b + 8, "%d.%u.%d", &id, &gen, &cseq) != 3 || id < 0 || id >= opt.dialogs) { st.errors++; return; }
    dialog *d = &dlg[id];
    if (gen != d->gen || cseq != d->cseq || m->status < 200) return;
    if (m->status >= 300) {
        st.errors++;
        st.last_error = (uint64_t)m->status;
        if (d->state == D_INVITE) uac_send(d, "ACK", d->target, now_ns, true);
        if (opt.subscribe) { d->state = D_NONE; return; }
        if (opt.page) { d->state = D_READY; dialog_ready(d); return; }
        dialog_start(d);
        return;
    }
    switch (d->state) {
    case D_INVITE: {
        char *r = d->route;
        int left = sizeof d->route;
        for (int i = m->nrr - 1; i >= 0; i--) {
            int k = snprintf(r, (size_t)left, "Route: %.*s\r\n", m->rr[i].n, m->rr[i].p);
            r += k;
            left -= k;
        }
        snprintf(d->to, sizeof d->to, "%.*s", m->to.n, m->to.p);
        if (opt.subscribe) { st.subscribed++; d->state = D_READY; break; }
        const char *lt = memchr(m->contact.p, '<', (size_t)m->contact.n);
        const char *gt = lt ? memchr(lt, '>', (size_t)(m->contact.p + m->contact.n - lt)) : NULL;
        if (gt) snprintf(d->target, sizeof d->target, "%.*s", (int)(gt - lt - 1), lt + 1);
        uac_send(d, "ACK", d->target, now_ns, false);
        if (measuring) st.invites++;
        dialog_ready(d);
        break;
    }
    case D_MESSAGE:
        if (measuring) { st.messages++; record(now_ns - d->t0); }
        if (!opt.page && opt.msgs && d->sent >= opt.msgs) {
            d->state = D_BYE;
            uac_send(d, "BYE", d->target, now_ns, false);
        } else {
            if (opt.page) { d->gen++; d->cseq = 0; }
            dialog_ready(d);
        }
        break;
    case D_BYE:
        if (measuring) st.byes++;
        if (!stopping) dialog_start(d);
        break;
    default:
        break;
    }
}

static void check_timeouts(void)
{
    for (int i = 0; i < opt.dialogs; i++) {
        dialog *d = &dlg[i];
        if (d->state == D_NONE || d->state == D_READY || now_ns - d->t_sent < 8 * NS) continue;
        st.timeouts++;
        dialog_start(d);
        if (opt.page) dialog_ready(d);
    }
}

/* -------------------------------------------------------------------- UAS */

static void uas_request(conn *c, sipmsg *m)
{
    char r[8192], tag[32] = "";
    if (measuring) st.uas_requests++;
    if (is(m->method, "ACK")) return;
    if (is(m->method, "NOTIFY")) st.notified++;
    if (!opt.dialogs && measuring && is(m->method, "MESSAGE")) {
        /* answering only: the body begins with the sender's monotonic clock */
        long long sent;
        st.messages++;
        if (m->body.n > 2 && sscanf(m->body.p, "T%lld;", &sent) == 1) record(mono() - sent);
    }
    bool inv = is(m->method, "INVITE");
    int n = sprintf(r, "SIP/2.0 200 OK\r\n");
    for (int i = 0; i < m->nvia; i++) n += sprintf(r + n, "Via: %.*s\r\n", m->via[i].n, m->via[i].p);
    if (inv || is(m->method, "SUBSCRIBE")) for (int i = 0; i < m->nrr; i++) n += sprintf(r + n, "Record-Route: %.*s\r\n", m->rr[i].n, m->rr[i].p);
    if (!memmem(m->to.p, (size_t)m->to.n, ";tag=", 5)) {
        static unsigned k;
        snprintf(tag, sizeof tag, ";tag=u%08x", ++k * 0x9e3779b9u);
    }
    n += sprintf(r + n, "From: %.*s\r\nTo: %.*s%s\r\nCall-ID: %.*s\r\nCSeq: %.*s\r\n",
        m->from.n, m->from.p, m->to.n, m->to.p, tag, m->callid.n, m->callid.p, m->cseq.n, m->cseq.p);
    if (inv) {
        char sdp[512];
        int k = sprintf(sdp, "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=session\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
            "m=message 5060 sip sip:uas@%s\r\na=accept-types:text/plain\r\n", opt.to_domain);
        n += sprintf(r + n, "Contact: <sip:uas@%s:%d;transport=%s>\r\nServer: sipload/1.0\r\n"
            "Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, MESSAGE\r\nSupported: timer\r\n"
            "Content-Type: application/sdp\r\nContent-Length: %d\r\n\r\n%s",
            opt.uas_host, opt.uas_port, opt.uas_tls ? "tls" : "tcp", k, sdp);
    } else n += sprintf(r + n, "Server: sipload/1.0\r\nContent-Length: 0\r\n\r\n");
    send_msg(c, r, (size_t)n);
}

/* ------------------------------------------------------------- connections */

static void nodelay(int fd)
{
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFL, O_NONBLOCK);
}

static struct sockaddr_in addr(const char *host, int port)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    if (inet_pton(AF_INET, host, &a.sin_addr) != 1) die("not an IPv4 address: %s", host);
    return a;
}

static void watch(conn *c, bool out)
{
    struct epoll_event ev = { .events = EPOLLIN | (out ? EPOLLOUT : 0), .data.ptr = c };
    c->armed_out = out;
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &ev);
}

static conn *dial(int id)
{
    conn *c = calloc(1, sizeof *c);
    struct sockaddr_in a = addr(opt.proxy_host, opt.proxy_port);
    c->kind = K_UAC;
    c->id = id;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (void *)&a, sizeof a)) die("connect %s:%d: %s", opt.proxy_host, opt.proxy_port, strerror(errno));
    nodelay(c->fd);
    if (opt.proxy_tls) {
        c->ssl = SSL_new(cctx);
        SSL_set_fd(c->ssl, c->fd);
        SSL_set_connect_state(c->ssl);
        c->handshaking = true;
    } else c->up = true;
    watch(c, opt.proxy_tls);
    return c;
}

static conn *listener(void)
{
    conn *c = calloc(1, sizeof *c);
    struct sockaddr_in a = addr(opt.uas_host, opt.uas_port);
    int one = 1;
    c->kind = K_LISTEN;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(c->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(c->fd, (void *)&a, sizeof a) || listen(c->fd, 512)) die("listen %s:%d: %s", opt.uas_host, opt.uas_port, strerror(errno));
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    watch(c, false);
    return c;
}

static void accept_all(conn *l)
{
    for (int fd; (fd = accept(l->fd, NULL, NULL)) >= 0; ) {
        conn *c = calloc(1, sizeof *c);
        c->kind = K_UAS;
        c->fd = fd;
        nodelay(fd);
        if (opt.uas_tls) {
            c->ssl = SSL_new(sctx);
            SSL_set_fd(c->ssl, fd);
            SSL_set_accept_state(c->ssl);
            c->handshaking = true;
        } else c->up = true;
        watch(c, false);
    }
}

static void handshake(conn *c)
{
    int r = SSL_do_handshake(c->ssl);
    if (r == 1) {
        c->handshaking = false;
        c->up = true;
        arm(c, false);
        flush_out(c);
        return;
    }
    int e = SSL_get_error(c->ssl, r);
    if (e == SSL_ERROR_WANT_READ) arm(c, false);
    else if (e == SSL_ERROR_WANT_WRITE) arm(c, true);
    else { ERR_print_errors_fp(stderr); conn_lost(c, "TLS handshake"); }
}

static void readable(conn *c)
{
    for (int rounds = 0; rounds < 8 && !c->dead; rounds++) {
        char *p = room(&c->in, 32768);
        int r = c->ssl ? SSL_read(c->ssl, p, 32768) : (int)read(c->fd, p, 32768);
        if (r <= 0) {
            if (c->ssl) {
                int e = SSL_get_error(c->ssl, r);
                ERR_clear_error();
                if (e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE) return;
            } else if (r < 0 && (errno == EAGAIN || errno == EINTR)) return;
            conn_lost(c, "closed by peer");
            return;
        }
        c->in.len += (size_t)r;
        for (;;) {
            sipmsg m;
            long n = parse(c->in.p + c->in.off, c->in.len - c->in.off, &m);
            if (n < 0) die("malformed message:\n%.*s", (int)(c->in.len - c->in.off), c->in.p + c->in.off);
            if (!n) break;
            if (m.request) uas_request(c, &m);
            else if (c->kind == K_UAC) uac_response(&m);
            c->in.off += (size_t)n;
        }
        if (!c->ssl && r < 32768) return;
    }
}

/* ------------------------------------------------------------------- main */

static void hostport(char *s, const char **host, int *port)
{
    char *c = strrchr(s, ':');
    if (!c) die("want HOST:PORT, got %s", s);
    *c = 0;
    *host = s;
    *port = atoi(c + 1);
}

static void usage(void)
{
    puts("sipload [options]\n"
         "  --proxy HOST:PORT       where the UAC connects (127.0.0.1:5061)\n"
         "  --transport tcp|tls     towards the proxy (tls)\n"
         "  --uas HOST:PORT         also listen here and answer 200 (off)\n"
         "  --uas-transport tcp|tls (tls)\n"
         "  --ruri URI              INVITE request URI, %d = user number (the UAS address)\n"
         "  --route VALUE           Route of out-of-dialog requests, e.g. '<sip:1.2.3.4;lr>'\n"
         "  --to URI                To header, %d = user number (sip:v%d@TO-DOMAIN)\n"
         "  --page URI              page mode: MESSAGE to this URI outside a dialog\n"
         "  --subscribe             watchers: SUBSCRIBE for presence, then idle, NOTIFY answered\n"
         "  --from-domain, --to-domain, --contact-host\n"
         "  --conns N               UAC connections (4)\n"
         "  --dialogs N             concurrent dialogs, one request outstanding each (100);\n"
         "                          0 with --uas: answer only, latency from the T in the body\n"
         "  --msgs N                MESSAGEs per dialog, 0 = no BYE (100)\n"
         "  --body BYTES            body size (120); it begins with T<monotonic ns>;\n"
         "  --users N               user numbers are dialog mod N (1000)\n"
         "  --ramp R                dialogs begun per second (2000)\n"
         "  --linger S              go on answering for so long after the measurement (0)\n"
         "  --rate R                open loop: R messages/s, latency from the due time (0 = closed loop)\n"
         "  --duration S --warmup S (10, 3)\n"
         "  --cert PEM --key PEM    certificate of both sides; --ca PEM: verify the peer\n"
         "  --pids A,B,C            sample CPU and RSS of these processes over the window");
    exit(0);
}

static void options(int argc, char **argv)
{
    static struct option lo[] = {
        {"proxy", 1, 0, 'p'}, {"transport", 1, 0, 't'}, {"uas", 1, 0, 'u'}, {"uas-transport", 1, 0, 'T'},
        {"ruri", 1, 0, 'r'}, {"route", 1, 0, 'R'}, {"page", 1, 0, 'P'}, {"from-domain", 1, 0, 'f'},
        {"to-domain", 1, 0, 'o'}, {"contact-host", 1, 0, 'H'}, {"conns", 1, 0, 'c'}, {"dialogs", 1, 0, 'd'},
        {"msgs", 1, 0, 'n'}, {"body", 1, 0, 'b'}, {"users", 1, 0, 'U'}, {"rate", 1, 0, 'x'},
        {"duration", 1, 0, 'D'}, {"warmup", 1, 0, 'W'}, {"cert", 1, 0, 'C'}, {"key", 1, 0, 'K'},
        {"ca", 1, 0, 'A'}, {"pids", 1, 0, 'i'}, {"to", 1, 0, 'O'}, {"subscribe", 0, 0, 'S'},
        {"ramp", 1, 0, 'a'}, {"linger", 1, 0, 'L'},
        {"help", 0, 0, 'h'}, {0},
    };
    for (int o; (o = getopt_long(argc, argv, "", lo, NULL)) != -1; ) switch (o) {
        case 'p': hostport(optarg, &opt.proxy_host, &opt.proxy_port); break;
        case 't': opt.proxy_tls = !strcmp(optarg, "tls"); break;
        case 'u': hostport(optarg, &opt.uas_host, &opt.uas_port); break;
        case 'T': opt.uas_tls = !strcmp(optarg, "tls"); break;
        case 'r': opt.ruri = optarg; break;
        case 'R': opt.route = optarg; break;
        case 'P': opt.page = true; opt.page_ruri = optarg; break;
        case 'f': opt.from_domain = optarg; break;
        case 'o': opt.to_domain = optarg; break;
        case 'O': opt.to_uri = optarg; break;
        case 'L': opt.linger = atof(optarg); break;
        case 'a': opt.ramp = atof(optarg); break;
        case 'S': opt.subscribe = true; break;
        case 'H': opt.contact_host = optarg; break;
        case 'c': opt.conns = atoi(optarg); break;
        case 'd': opt.dialogs = atoi(optarg); break;
        case 'n': opt.msgs = atoi(optarg); break;
        case 'b': opt.body = atoi(optarg); break;
        case 'U': opt.users = atoi(optarg); break;
        case 'x': opt.rate = atof(optarg); break;
        case 'D': opt.duration = atof(optarg); break;
        case 'W': opt.warmup = atof(optarg); break;
        case 'C': opt.cert = optarg; break;
        case 'K': opt.key = optarg; break;
        case 'A': opt.ca = optarg; break;
        case 'i':
            for (char *s = strtok(optarg, ","); s && opt.npids < MAX_PIDS; s = strtok(NULL, ",")) opt.pids[opt.npids++] = atoi(s);
            break;
        default: usage();
    }
    if (opt.dialogs == 0 && opt.uas_port) opt.conns = 0;
    else if (opt.conns < 1 || opt.dialogs < 1) usage();
    if (opt.body > 60000) usage();
}

static SSL_CTX *context(bool server)
{
    SSL_CTX *c = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
    SSL_CTX_set_mode(c, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    if (opt.cert && (SSL_CTX_use_certificate_chain_file(c, opt.cert) != 1 ||
                     SSL_CTX_use_PrivateKey_file(c, opt.key ? opt.key : opt.cert, SSL_FILETYPE_PEM) != 1))
        die("cannot load %s", opt.cert);
    if (opt.ca) {
        if (SSL_CTX_load_verify_locations(c, opt.ca, NULL) != 1) die("cannot load %s", opt.ca);
        SSL_CTX_set_verify(c, SSL_VERIFY_PEER, NULL);
    }
    return c;
}

static void loop_once(void)
{
    struct epoll_event ev[256];
    struct timespec ts = { 0, 20000000 };
    if (interval_ns && ready_n) {
        int64_t wait = backlog_next - mono();
        ts.tv_nsec = wait < 0 ? 0 : wait < 20000000 ? wait : 20000000;
    }
    int n = epoll_pwait2(ep, ev, 256, &ts, NULL);
    now_ns = mono();
    for (int i = 0; i < n; i++) {
        conn *c = ev[i].data.ptr;
        if (c->dead) continue;
        if (c->kind == K_LISTEN) { accept_all(c); continue; }
        if (c->handshaking) { handshake(c); if (c->handshaking || c->dead) continue; }
        if (ev[i].events & EPOLLOUT) flush_out(c);
        if (!c->dead && ev[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(c);
    }
    run_schedule();
}

int main(int argc, char **argv)
{
    options(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    memset(filler, 'x', sizeof filler);
    for (size_t i = 7; i < sizeof filler; i += 8) filler[i] = ' ';
    if (!opt.contact_host) opt.contact_host = "127.0.0.1";
    char def[128];
    if (!opt.ruri) {
        snprintf(def, sizeof def, "sip:v%%d@%s:%d;transport=%s", opt.uas_host, opt.uas_port, opt.uas_tls ? "tls" : "tcp");
        opt.ruri = def;
    }
    ep = epoll_create1(0);
    cctx = context(false);
    sctx = context(true);
    if (opt.uas_port) listener();
    uac = calloc((size_t)opt.conns + 1, sizeof *uac);
    dlg = calloc((size_t)opt.dialogs + 1, sizeof *dlg);
    ready = calloc((size_t)opt.dialogs + 1, sizeof *ready);
    now_ns = mono();
    for (int i = 0; i < opt.conns; i++) uac[i] = dial(i);
    for (int up = 0; up < opt.conns; ) {
        loop_once();
        up = 0;
        for (int i = 0; i < opt.conns; i++) up += uac[i]->up;
    }
    if (opt.rate > 0) interval_ns = (int64_t)(NS / opt.rate);
    backlog_next = now_ns;
    for (int i = 0; i < opt.dialogs; i++) {
        dlg[i].id = i;
        dlg[i].conn = i % opt.conns;
        dlg[i].gen = ((unsigned)getpid() & 0x7fff) << 16;    /* branches differ between runs against one server */
    }
    int launched = 0;
    int64_t first_up = 0;
    int64_t begin = mono(), open_at = begin + (int64_t)(opt.warmup * NS), next_check = begin + NS;
    double each0[MAX_PIDS], each1[MAX_PIDS];
    while (now_ns < open_at) {
        /* one dialog first (it makes the proxy connect to the UAS), then --ramp a second:
         * a burst of INVITEs at an unconnected proxy loses some, and on TCP nobody repeats them */
        int want = 1;
        if (first_up) want += (int)((now_ns - first_up) / 1e9 * opt.ramp);
        else if (launched && dlg[0].state > D_INVITE) first_up = now_ns;
        for (; launched < want && launched < opt.dialogs; launched++) {
            dialog_start(&dlg[launched]);
            if (opt.page) dialog_ready(&dlg[launched]);
        }
        loop_once();
        /* an open loop starts its clock when every dialog is up */
        if (interval_ns && !opt.page && now_ns < begin + NS) backlog_next = now_ns;
    }
    double cpu0 = pids_cpu(each0), own0 = own_cpu();
    int64_t t0 = mono(), t1 = t0 + (int64_t)(opt.duration * NS);
    measuring = true;
    while (now_ns < t1) {
        loop_once();
        if (now_ns > next_check) { check_timeouts(); next_check = now_ns + NS; }
    }
    measuring = false;
    double cpu = pids_cpu(each1) - cpu0, own = own_cpu() - own0, secs = (mono() - t0) / 1e9;
    stopping = true;
    int active = 0;
    for (int i = 0; i < opt.dialogs; i++)
        active += dlg[i].state == D_READY || (dlg[i].state != D_NONE && now_ns - dlg[i].t_sent < NS);
    uint64_t relayed = 2 * st.messages + 3 * st.invites + 2 * st.byes;
    for (int64_t end = mono() + (int64_t)(opt.linger * NS); mono() < end; ) loop_once();
    long rss = 0;
    for (int i = 0; i < opt.npids; i++) rss += rss_kib(opt.pids[i]);
    if (opt.subscribe)
        for (int i = active = 0; i < opt.dialogs; i++) active += dlg[i].state == D_READY;
    uint64_t total = st.messages;
    printf("{\"seconds\": %.3f, \"messages\": %llu, \"messages_per_s\": %.1f, \"sip_messages_per_s\": %.1f, "
           "\"invites\": %llu, \"byes\": %llu, \"errors\": %llu, \"last_error\": %llu, \"timeouts\": %llu, "
           "\"uas_requests\": %llu, \"p50_ms\": %.3f, \"p90_ms\": %.3f, \"p99_ms\": %.3f, \"p999_ms\": %.3f, "
           "\"max_ms\": %.3f, \"late\": %llu, \"active\": %d, \"own_cpu_s\": %.3f, "
           "\"subscribed\": %llu, \"notified\": %llu",
           secs, (unsigned long long)st.messages, st.messages / secs, relayed / secs,
           (unsigned long long)st.invites, (unsigned long long)st.byes, (unsigned long long)st.errors,
           (unsigned long long)st.last_error, (unsigned long long)st.timeouts, (unsigned long long)st.uas_requests,
           quantile(.5, total), quantile(.9, total), quantile(.99, total), quantile(.999, total), h_max / 1e6,
           (unsigned long long)st.late, active, own,
           (unsigned long long)st.subscribed, (unsigned long long)st.notified);
    if (opt.npids) {
        printf(", \"cpu_s\": %.3f, \"cpu_cores\": %.3f, \"cpu_s_per_1000_transactions\": %.5f, "
               "\"cpu_s_per_1000_sip_messages\": %.5f, \"rss_mib\": %.1f, \"cpu_by_pid\": {",
               cpu, cpu / secs, st.messages ? cpu * 1000 / st.messages : 0, relayed ? cpu * 1000 / relayed : 0, rss / 1024.0);
        bool first = true;
        for (int i = 0; i < opt.npids; i++) if (each1[i] - each0[i] > 0.01) {
            printf("%s\"%d\": %.3f", first ? "" : ", ", opt.pids[i], each1[i] - each0[i]);
            first = false;
        }
        printf("}");
    }
    puts("}");
    return 0;
}
