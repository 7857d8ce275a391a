/*
 * Copyright (c) 2026 the pop3d authors
 *
 * Permission to use, copy, modify, and distribute this software for any
 * purpose with or without fee is hereby granted, provided that the above
 * copyright notice and this permission notice appear in all copies.
 *
 * THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES
 * WITH REGARD TO THIS SOFTWARE INCLUDING ALL IMPLIED WARRANTIES OF
 * MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR
 * ANY SPECIAL, DIRECT, INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES
 * WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN AN
 * ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF
 * OR IN CONNECTION WITH THE USE OR PERFORMANCE OF THIS SOFTWARE.
 */

/*
 * A POP3 session on stdin and stdout (RFC 1939): options, the states, the
 * commands, the replies, the log.
 *
 * As root, bytes of a stranger reach only read_proxy(), read_line(), split(),
 * the handlers in authorization[] with plain() and decode(), farewell(), and,
 * as a user name and a password, PAM.
 */

#define LIBBSD_OPENBSD_VIS	/* which strnvis(), though none is used */

#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#include <arpa/inet.h>
#include <bsd/stdlib.h>
#include <bsd/string.h>
#include <bsd/unistd.h>
#include <bsd/vis.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <ctype.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "pop3d.h"

#define LINE_MAX_OCTETS	512		/* a command with its line end */
#define SASL_MAX_OCTETS	(12 * 1024)	/* a line within AUTH, RFC 5034 */
#define PROXY_MAX_OCTETS 107		/* PROXY v1, with its CRLF */
#define OUT_SIZE	(64 * 1024)
#define ROW		32		/* lines are copied in such pieces */
#define LOGIN_TRIES	3
#define BAD_MAX		20		/* bad commands in a row */
#define FAREWELL_LINES	20		/* that get the last refusal again */
#define LOGGED_OCTETS	64		/* of a stranger's text */
#define LOGGED_SIZE	(4 * LOGGED_OCTETS + 1)	/* of that, printable */
#define REST		(-1)		/* the argument is the rest of line */
#define SECOND		1000000000LL	/* as now() counts */

/* Limits that a test build makes smaller, to reach them in its lifetime. */
#ifndef LOGIN_SECONDS
#define LOGIN_SECONDS	60		/* to log in, in all */
#endif
#ifndef REFUSAL
#define REFUSAL		(2 * SECOND)	/* a refused login is answered on it */
#endif
#ifndef FAREWELL_SECONDS
#define FAREWELL_SECONDS 10		/* for the last refusal to be heard */
#endif
#ifndef AUTOLOGOUT_MIN
#define AUTOLOGOUT_MIN	600		/* seconds: RFC 1939, section 3 */
#endif

enum state { AUTHORIZATION, TRANSACTION, UPDATE, FAREWELL };

/*
 * A handler answers +OK itself and returns NULL, or returns the text of the
 * one -ERR that serve() sends.
 */
struct command {
	const char	*name;
	int		 min, max;	/* arguments; REST */
	const char	*(*run)(char **);
};

struct sending {			/* a message on its way out */
	bool		 top;		/* TOP, not RETR */
	bool		 body;		/* TOP has come to it */
	unsigned long	 lines;		/* of it that TOP may send yet */
	off_t		 octets;	/* sent, before byte-stuffing */
};

static struct {
	const char	*mailbox;	/* -m */
	bool		 encrypted;	/* -s */
	bool		 clear;		/* -p */
	unsigned int	 autologout;	/* -t, seconds */
	bool		 proxy;		/* -P */
	bool		 debug;		/* -d */
} option = { .mailbox = "/var/mail/%u", .autologout = AUTOLOGOUT_MIN };

static struct {
	enum state	 state;
	char		 peer[INET6_ADDRSTRLEN];
	bool		 passwords;	/* may be sent on this connection */
	char		 user[LINE_MAX_OCTETS];	/* as typed */
	char		 account[LINE_MAX_OCTETS];
	char		 mailbox[PATH_MAX];
	unsigned int	 tries;
	unsigned int	 bad;		/* bad commands in a row */
	time_t		 began;
	long long	 deadline;	/* of waiting for the client: now() */
	unsigned long	 retrieved, topped;
	bool		 marked;	/* a message is marked as deleted */
	size_t		 deleted, left;
	long long	 retrieved_octets, topped_octets;
	const char	*ending;	/* why the next reply is the last */
} session = { .peer = "unknown" };

static struct {
	char		 data[SASL_MAX_OCTETS + 1];
	size_t		 next, last;	/* unread octets are [next, last) */
} in;

static struct {
	char		 data[OUT_SIZE + ROW];
	size_t		 size;
} out;

static struct maildrop drop = MAILDROP_CLOSED;

/*
 * ---- signals and time ----
 *
 * No signal has a handler.  Those that end a session are blocked, and a
 * descriptor tells of them where the process waits for its client, in
 * wait_until(): so they are seen between two commands, and what follows is
 * ordinary code.  Where a library or a file system may hang they are let in,
 * and the kernel ends the process: may_hang().  UPDATE and recovery let none
 * in.
 */

static const int ending_signals[] = { SIGALRM, SIGHUP, SIGINT, SIGTERM };
static sigset_t ending;			/* the set of them */
static int signalled;			/* ready when one is pending */

static void
dispose(void (*how)(int))
{
	size_t i;

	for (i = 0; i < sizeof(ending_signals) / sizeof(int); i++)
		signal(ending_signals[i], how);
}

/* One that is pending would end the next that may hang. */
static void
forget_signals(void)
{
	dispose(SIG_IGN);
	dispose(SIG_DFL);
}

/* From here on, until did_not_hang(): so many seconds at most. */
static void
may_hang(unsigned int seconds)
{
	alarm(seconds);
	sigprocmask(SIG_UNBLOCK, &ending, NULL);
}

static void
did_not_hang(void)
{
	int error = errno;

	alarm(0);
	sigprocmask(SIG_BLOCK, &ending, NULL);
	errno = error;
}

static long long
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * SECOND + t.tv_nsec;
}

/* ---- the log, and the end ---- */

/* Again when PAM's modules have run: one may have opened a log of its own. */
static void
open_log(void)
{
	closelog();
	openlog("pop3d", LOG_NDELAY | LOG_PID | (option.debug ? LOG_PERROR : 0),
	    LOG_MAIL);
}

/*
 * syslog(3) waits for a syslogd that hangs, and so would all who wait for us:
 * nothing is logged while a lock is held that others want.
 */
static void __attribute__((format(printf, 2, 3)))
log_line(int priority, const char *format, ...)
{
	va_list ap;

	may_hang(HANG_SECONDS);
	va_start(ap, format);
	vsyslog(priority, format, ap);
	va_end(ap);
	did_not_hang();
}

/* Text of a stranger, fit for the log. */
static const char *
printable(char *text, const char *source)
{
	strvisx(text, source, strnlen(source, LOGGED_OCTETS),
	    VIS_CSTYLE | VIS_WHITE);
	return text;
}

/* Who it is: the name as it was typed, and the account if it is another. */
static const char *
who(void)
{
	static char text[2 * LOGGED_SIZE + INET6_ADDRSTRLEN + 40];
	char user[LOGGED_SIZE], account[LOGGED_SIZE];
	bool another = session.account[0] != '\0' &&
	    strcmp(session.account, session.user) != 0;

	snprintf(text, sizeof(text), "user=<%s>%s%s%s ip=%s",
	    printable(user, session.user), another ? " account=<" : "",
	    another ? printable(account, session.account) : "",
	    another ? ">" : "", session.peer);
	return text;
}

static void
close_maildrop(void)
{
	if (drop.dir != -1)
		session.left = drop.count - session.deleted;
	maildrop_close(&drop);
}

/* What mailbox.c could not do ends the session: to the log, to the client. */
static const char *
give_up(const char *what)
{
	char mailbox[LOGGED_SIZE];
	int error = errno;

	close_maildrop();
	if (session.state == UPDATE)
		forget_signals();	/* the answer to QUIT is not withheld */
	log_line(LOG_ERR, "maildrop failed: %s mailbox=<%s> at=%s error=%s",
	    who(), printable(mailbox, session.mailbox), what, drop.why);
	session.ending = "maildrop";
	if (session.state == UPDATE && drop.begun)
		return "[SYS/TEMP] not all deleted messages may be gone";
	switch (error) {
	case EBUSY:
		return "[IN-USE] maildrop is locked by another POP3 session";
	case EAGAIN:
		return session.state == UPDATE ?
		    "[SYS/TEMP] mailbox is locked by another program" :
		    "[IN-USE] mailbox is locked by another program";
	case EBADMSG:
		return "[SYS/PERM] not a mailbox";
	case E2BIG:
		return "[SYS/PERM] mailbox has too many messages";
	case EPERM:
		return "[SYS/PERM] no mailbox that can be used";
	case ESTALE:
		return "[SYS/TEMP] mailbox was changed by another program";
	default:
		return session.state != UPDATE ?
		    "[SYS/TEMP] mailbox cannot be used now" :
		    error == ENOSPC || error == EDQUOT ?
		    "[SYS/TEMP] no room to delete: nothing was deleted" :
		    "[SYS/TEMP] nothing was deleted";
	}
}

static void
log_end(const char *reason)
{
	long long seconds = (long long)(time(NULL) - session.began);

	forget_signals();
	if (session.state == AUTHORIZATION)
		log_line(LOG_INFO, "no login: ip=%s seconds=%lld reason=%s",
		    session.peer, seconds, reason);
	else
		log_line(LOG_INFO, "logout: %s retr=%lu/%lld top=%lu/%lld "
		    "dele=%zu left=%zu seconds=%lld reason=%s", who(),
		    session.retrieved, session.retrieved_octets,
		    session.topped, session.topped_octets, session.deleted,
		    session.left, seconds, reason);
}

static void
end_session(const char *reason)
{
	close_maildrop();
	if (session.state != FAREWELL)
		log_end(reason);
	exit(0);
}

/* ---- waiting for the client ---- */

static void
end_if_signalled(void)
{
	sigset_t pending;

	if (sigpending(&pending) == 0 && !sigisemptyset(&pending))
		end_session("signal");
}

/*
 * Whether fd is ready before the deadline.  Here a signal is seen; but the
 * answer to QUIT is the truth, and is not withheld.
 */
static bool
wait_until(long long deadline, int fd, short events)
{
	struct pollfd waiting[] = { { .fd = fd, .events = events },
	    { .fd = session.state == UPDATE ? -1 : signalled,
	    .events = POLLIN } };
	long long left = deadline - now();
	struct timespec t = { left / SECOND, left % SECOND };

	if (left <= 0)
		return false;
	/* A client that is always ready must not keep a signal waiting. */
	if (ppoll(waiting, 2, &t, NULL) == -1 || waiting[1].revents != 0)
		end_session("signal");
	return waiting[0].revents != 0;
}

/* Autologout ends the session without a reply and without UPDATE. */
static void
wait_for_client(int fd, short events)
{
	if (session.state == TRANSACTION || session.state == UPDATE)
		session.deadline = now() + option.autologout * SECOND;
	if (!wait_until(session.deadline, fd, events))
		end_session(session.state == AUTHORIZATION ? "timeout" :
		    "autologout");
}

/* ---- replies out ---- */

/*
 * Never waits, for that would be a wait without signals and without an end.
 * O_NONBLOCK is not ours to set: others have the same terminal or pipe.  What
 * is no socket takes PIPE_BUF octets at least when ppoll(2) says it is ready.
 */
static ssize_t
write_some(const char *text, size_t size)
{
	ssize_t n = send(STDOUT_FILENO, text, size, MSG_DONTWAIT);

	if (n == -1 && errno == ENOTSOCK)
		n = write(STDOUT_FILENO, text,
		    size < PIPE_BUF ? size : PIPE_BUF);
	return n;
}

static void
flush(void)
{
	size_t done = 0;
	ssize_t n;

	while (done < out.size) {
		wait_for_client(STDOUT_FILENO, POLLOUT);
		n = write_some(out.data + done, out.size - done);
		if (n == -1 && errno != EAGAIN)
			end_session("write");
		if (n > 0)
			done += (size_t)n;
	}
	out.size = 0;
}

/* Room for size more octets, of which message_read() gives 33 KiB at most. */
static char *
room(size_t size)
{
	if (size > OUT_SIZE - out.size)
		flush();
	return out.data + out.size;
}

static void
put(const char *text, size_t size)
{
	memcpy(room(size), text, size);
	out.size += size;
}

static void __attribute__((format(printf, 1, 2)))
put_line(const char *format, ...)
{
	char line[512];
	va_list ap;

	va_start(ap, format);
	vsnprintf(line, sizeof(line), format, ap);
	va_end(ap);
	put(line, strlen(line));
	put("\r\n", 2);
}

/* ---- lines in ---- */

/* Nothing complete is left to read, so what was answered so far can go out. */
static void
fill(void)
{
	ssize_t n;

	flush();
	memmove(in.data, in.data + in.next, in.last - in.next);
	in.last -= in.next;
	in.next = 0;
	wait_for_client(STDIN_FILENO, POLLIN);
	n = read(STDIN_FILENO, in.data + in.last, sizeof(in.data) - in.last);
	if (n <= 0)
		end_session("disconnect");
	in.last += (size_t)n;
}

/*
 * The next line without its end, CRLF or LF, which counts in its limit of
 * octets.  NULL for one too long, which is thrown away to its end, or with a
 * NUL in it.
 */
static char *
read_line(size_t limit)
{
	bool too_long = false;
	char *line, *lf;
	size_t n;

	for (;;) {
		line = in.data + in.next;
		n = in.last - in.next;
		if ((lf = memchr(line, '\n', n)) != NULL)
			break;
		if (n >= limit) {
			too_long = true;
			in.next = in.last;
		}
		fill();
	}
	n = (size_t)(lf - line) + 1;
	in.next += n;
	if (too_long || n > limit)
		return NULL;
	if (lf > line && lf[-1] == '\r')
		lf--;
	if (memchr(line, '\0', (size_t)(lf - line)) != NULL)
		return NULL;
	*lf = '\0';
	return line;
}

/* Of a password nothing stays in the buffer, even if it was no good as one. */
static void
wipe_input(void)
{
	explicit_bzero(in.data, in.next);
	explicit_bzero(in.data + in.last, sizeof(in.data) - in.last);
}

/* ---- AUTHORIZATION ---- */

static const char *
cmd_stls(char **args)
{
	(void)args;
	return "TLS is not to be had here";
}

static const char no_passwords[] =
    "passwords are refused in clear text: use TLS, mostly on port 995";

static const char *
cmd_user(char **args)
{
	strlcpy(session.user, args[0], sizeof(session.user));
	if (!session.passwords)
		return no_passwords;
	put_line("+OK password?");
	return NULL;
}

/* -m with %u, %h and %% filled in; false: no way. */
static bool
set_mailbox(const struct passwd *pw)
{
	const size_t size = sizeof(session.mailbox);
	const char *p, *text;
	char one[2] = { 0 };

	session.mailbox[0] = '\0';
	for (p = option.mailbox; *p != '\0'; p++) {
		one[0] = *p;
		text = one;
		if (*p == '%') {
			p++;
			text = *p == 'u' ? pw->pw_name :
			    *p == 'h' ? pw->pw_dir : *p == '%' ? "%" : NULL;
		}
		if (text == NULL ||
		    strlcat(session.mailbox, text, size) >= size)
			return false;
	}
	return session.mailbox[0] == '/' && pw->pw_name[0] != '.';
}

/* All that file systems may keep waiting.  Returns what failed. */
static const char *
enter_maildrop(const struct passwd *pw, const char **missing)
{
	drop_privileges(pw, getuid() != 0 ? getgid() :
	    spool_gid(session.mailbox, pw->pw_gid));
	setproctitle("%s %s", session.account, session.peer);
	/* What libraries have opened as root is not the user's. */
	closefrom(signalled + 1);
	open_log();
	if (maildrop_open(&drop, session.mailbox) == -1)
		return "open";
	*missing = confine(drop.dir);
	if (maildrop_begin(&drop) == -1)
		return "begin";
	return NULL;
}

/* What the administrator must know of the maildrop, even if login fails. */
static void
log_state(void)
{
	char mailbox[LOGGED_SIZE];
	int error = errno;

	printable(mailbox, session.mailbox);
	if (drop.lost)
		log_line(LOG_CRIT, "maildrop: %s mailbox=<%s> was changed by "
		    "another program after an UPDATE was cut short", who(),
		    mailbox);
	if (drop.saved[0] != '\0')
		log_line(LOG_CRIT, "maildrop: %s mailbox=<%s> a side file was "
		    "set aside as %.100s beside it: see pop3d(8)", who(),
		    mailbox, drop.saved);
	if (drop.recovered)
		log_line(LOG_NOTICE, "maildrop: %s mailbox=<%s> finished an "
		    "UPDATE that was cut short", who(), mailbox);
	if (!drop.writable && drop.note[0] != '\0')
		log_line(LOG_WARNING, "maildrop: %s mailbox=<%s> can only be "
		    "read: %s", who(), mailbox, drop.note);
	errno = error;
}

/* How many messages are not deleted, and their octets. */
static size_t
totals(long long *octets)
{
	size_t n, count = 0;

	*octets = 0;
	for (n = 0; n < drop.count; n++)
		if ((drop.messages[n].flags & MSG_DELETED) == 0) {
			*octets += drop.messages[n].octets;
			count++;
		}
	return count;
}

/* From root to the user, and to TRANSACTION: +OK only with all in hand. */
static const char *
begin_transaction(const struct passwd *pw, const char *method)
{
	const char *missing = NULL, *failed;
	long long octets;
	size_t count;

	if (!set_mailbox(pw)) {
		strlcpy(drop.why, "-m makes no path for this user",
		    sizeof(drop.why));
		errno = EPERM;
		return give_up("path");
	}
	may_hang(HANG_SECONDS);
	failed = enter_maildrop(pw, &missing);
	did_not_hang();
	log_state();
	if (failed != NULL)
		return give_up(failed);
	if (missing != NULL)
		log_line(LOG_NOTICE, "not confined: %s", missing);

	count = totals(&octets);
	log_line(LOG_INFO, "login: %s method=%s tls=%s messages=%zu "
	    "octets=%lld", who(), method, option.encrypted ? "yes" : "no",
	    count, octets);
	put_line("+OK %zu messages (%lld octets)", count, octets);
	session.state = TRANSACTION;
	return NULL;
}

/*
 * A login, begun at that time, has failed.  Its answer comes at a multiple of
 * REFUSAL: what PAM did for this name does not show in the time.  The log has
 * it before, for the client may not wait.
 */
static const char *
refuse(long long began, const char *method, const char *why, const char *text)
{
	wipe_input();
	log_line(LOG_NOTICE, "login failed: %s method=%s tls=%s reason=%s",
	    who(), method, option.encrypted ? "yes" : "no", why);
	session.user[0] = session.account[0] = '\0';
	if (++session.tries == LOGIN_TRIES)
		session.ending = "refused";
	wait_until(began + ((now() - began) / REFUSAL + 1) * REFUSAL, -1, 0);
	return text;
}

static enum auth
authenticate(const char *pass, struct passwd **pw, const char **why)
{
	enum auth result;

	may_hang(HANG_SECONDS);
	result = auth_user(session.user, pass,
	    strcmp(session.peer, "unknown") == 0 ? NULL : session.peer,
	    pw, why);
	did_not_hang();
	/* PAM's modules may have left signals and the log as they liked. */
	dispose(SIG_DFL);
	open_log();
	if (*pw != NULL)
		strlcpy(session.account, (*pw)->pw_name,
		    sizeof(session.account));
	return result;
}

/* No account's name has one, and PAM's modules log it as it is. */
static bool
has_control(const char *name)
{
	for (; *name != '\0'; name++)
		if (iscntrl((unsigned char)*name))
			return true;
	return false;
}

/* As session.user: the reply to PASS or AUTH is sent, or returned. */
static const char *
login(const char *pass, const char *method)
{
	long long began = now();
	struct passwd *pw;
	enum auth result = AUTH_REFUSED;
	const char *why = *pass == '\0' ? "no-password" : "credentials";

	if (*pass != '\0' && !has_control(session.user))
		result = authenticate(pass, &pw, &why);
	switch (result) {
	case AUTH_OK:
		wipe_input();
		return begin_transaction(pw, method);
	case AUTH_FORBIDDEN:
		return refuse(began, method, why,
		    "[SYS/PERM] this account may not log in here");
	case AUTH_TROUBLE:
		return refuse(began, method, why,
		    "[SYS/TEMP] authentication is not available now");
	default:
		return refuse(began, method, why,
		    "[AUTH] wrong user or password");
	}
}

static const char *
cmd_pass(char **args)
{
	if (!session.passwords)
		return refuse(now(), "PASS", "clear-text", no_passwords);
	if (session.user[0] == '\0')
		return "USER first";
	return login(args[0] != NULL ? args[0] : "", "PASS");
}

/* Base64, in place.  How many octets, with room for one more, or -1. */
static ssize_t
decode(char *text)
{
	static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	    "abcdefghijklmnopqrstuvwxyz0123456789+/";
	size_t length = strlen(text), i, n = 0;
	unsigned int bits = 0;
	const char *at;

	if (length % 4 != 0)
		return -1;
	while (length > 0 && n < 2 && text[length - 1] == '=') {
		length--;
		n++;
	}
	for (i = n = 0; i < length; i++) {
		if ((at = strchr(alphabet, text[i])) == NULL)
			return -1;
		bits = bits << 6 | (unsigned int)(at - alphabet);
		if (i % 4 != 0)
			text[n++] = (char)(bits >> (6 - 2 * (i % 4)));
	}
	return (ssize_t)n;
}

/* RFC 4616: authorization identity, NUL, user, NUL, password, in base64. */
static const char *
plain(char *response)
{
	char *end, *user, *pass;
	ssize_t n;

	if ((n = decode(response)) == -1)
		return "not base64";
	end = response + n;
	if ((user = memchr(response, '\0', (size_t)n)) == NULL ||
	    (pass = memchr(user + 1, '\0', (size_t)(end - user - 1))) == NULL ||
	    memchr(pass + 1, '\0', (size_t)(end - pass - 1)) != NULL ||
	    user[1] == '\0')
		return "not a message of PLAIN";
	user++;
	pass++;
	*end = '\0';
	if (*response != '\0' && strcmp(response, user) != 0)
		return "authorization identity is not the user";
	if (strlcpy(session.user, user, sizeof(session.user)) >=
	    sizeof(session.user)) {
		session.user[0] = '\0';
		return "user name too long";
	}
	return login(pass, "PLAIN");
}

static const char *
bad(const char *text)
{
	session.bad++;
	return text;
}

static const char *
cmd_auth(char **args)
{
	char *response = args[1];

	if (args[0] == NULL) {
		put_line("+OK mechanisms follow");
		if (session.passwords)
			put_line("PLAIN");
		put_line(".");
		return NULL;
	}
	if (strcasecmp(args[0], "PLAIN") != 0)
		return "unknown mechanism";
	if (!session.passwords)
		return response == NULL ? no_passwords :
		    refuse(now(), "PLAIN", "clear-text", no_passwords);
	if (response == NULL) {
		put_line("+ ");
		if ((response = read_line(SASL_MAX_OCTETS)) == NULL)
			return bad("line too long, or with NUL");
		if (strcmp(response, "*") == 0)
			return "cancelled";
	} else if (strcmp(response, "=") == 0)
		*response = '\0';
	return plain(response);
}

/* ---- TRANSACTION ---- */

/* Nothing but digits; what is too large is ULONG_MAX. */
static bool
digits(const char *text, unsigned long *number)
{
	const char *p;

	for (p = text; *p >= '0' && *p <= '9'; p++)
		continue;
	if (p == text || *p != '\0')
		return false;
	*number = strtoul(text, NULL, 10);
	return true;
}

/* The one place where an argument becomes a message, *n from 0. */
static const char *
message_arg(const char *arg, size_t *n)
{
	unsigned long number;

	if (!digits(arg, &number) || number < 1 || number > drop.count)
		return "no such message";
	*n = number - 1;
	if (drop.messages[*n].flags & MSG_DELETED)
		return "message is deleted";
	return NULL;
}

static const char *
cmd_stat(char **args)
{
	long long octets;
	size_t count = totals(&octets);

	(void)args;
	put_line("+OK %zu %lld", count, octets);
	return NULL;
}

/* The mailbox's file system may hang.  Who was told to end says so first. */
static void
reading(void)
{
	end_if_signalled();
	may_hang(HANG_SECONDS);
}

/* As unique_id() does. */
static int
scan_listing(struct maildrop *d, size_t n, char *text)
{
	snprintf(text, UNIQUE_ID_SIZE, "%lld",
	    (long long)d->messages[n].octets);
	return 0;
}

/* LIST and UIDL: of one message, or of all that are not deleted. */
static const char *
listing(const char *arg,
    int (*describe)(struct maildrop *, size_t, char *))
{
	char text[UNIQUE_ID_SIZE];
	const char *error;
	size_t n, count;
	long long octets;

	if (arg != NULL) {
		if ((error = message_arg(arg, &n)) != NULL)
			return error;
		if (describe(&drop, n, text) == -1)
			return give_up("uidl");
		put_line("+OK %zu %s", n + 1, text);
		return NULL;
	}
	count = totals(&octets);
	put_line("+OK %zu messages (%lld octets)", count, octets);
	for (n = 0; n < drop.count; n++)
		if ((drop.messages[n].flags & MSG_DELETED) == 0) {
			if (describe(&drop, n, text) == -1) {
				give_up("uidl");
				end_session("changed");
			}
			put_line("%zu %s", n + 1, text);
		}
	put_line(".");
	return NULL;
}

static const char *
cmd_list(char **args)
{
	return listing(args[0], scan_listing);
}

/* An X-UIDL line is read again. */
static int
uidl_listing(struct maildrop *d, size_t n, char *text)
{
	int result;

	if ((d->messages[n].flags & MSG_UIDL) == 0)
		return unique_id(d, n, text);
	reading();
	result = unique_id(d, n, text);
	did_not_hang();
	return result;
}

static const char *
cmd_uidl(char **args)
{
	if (maildrop_ids(&drop) == -1)
		return give_up("uidl");
	return listing(args[0], uidl_listing);
}

static const char *
cmd_dele(char **args)
{
	const char *error;
	size_t n;

	if ((error = message_arg(args[0], &n)) != NULL)
		return error;
	if (!drop.writable)
		return "[SYS/TEMP] mailbox can only be read now";
	drop.messages[n].flags |= MSG_DELETED;
	session.marked = true;
	put_line("+OK message %zu deleted", n + 1);
	return NULL;
}

static const char *
cmd_rset(char **args)
{
	size_t n;

	(void)args;
	for (n = 0; n < drop.count; n++)
		drop.messages[n].flags &= (uint8_t)~MSG_DELETED;
	session.marked = false;
	put_line("+OK nothing is deleted");
	return NULL;
}

/* Up to ROW - 1 octets too many: there is room for them on both sides. */
static void
copy_rows(char *to, const char *from, size_t size)
{
	size_t i;

	for (i = 0; i < size; i += ROW)
		memcpy(to + i, from + i, ROW);
}

/*
 * Lines end in CRLF, a leading dot is doubled.  The two octets before the text
 * are those that came before.  false: TOP has enough.
 */
static bool
put_text(struct sending *s, const char *text, size_t size)
{
	const char *end = text + size, *lf;
	char *to;
	size_t n;

	for (; text < end; text += n) {
		if (s->body && text[-1] == '\n' && s->lines-- == 0)
			return false;
		lf = memchr(text, '\n', (size_t)(end - text));
		n = (size_t)((lf != NULL ? lf + 1 : end) - text);
		to = room(n + sizeof(".\n") - 1);
		if (*text == '.' && text[-1] == '\n')
			*to++ = '.';
		copy_rows(to, text, n);
		to += n;
		s->octets += (off_t)n;
		if (lf != NULL && lf[-1] != '\r') {
			to[-1] = '\r';
			*to++ = '\n';
			s->octets++;
		}
		if (lf != NULL && s->top && (lf[-1] == '\n' ||
		    (lf[-1] == '\r' && lf[-2] == '\n')))
			s->body = true;
		out.size = (size_t)(to - out.data);
	}
	return true;
}

static ssize_t
next_text(const char **text)
{
	ssize_t size;

	reading();
	size = message_read(&drop, text);
	did_not_hang();
	return size;
}

/* TOP may have enough before the end. */
static int
leave_text(void)
{
	int result;

	reading();
	result = message_check(&drop);
	did_not_hang();
	return result;
}

/*
 * If the message changes under our hands, there is no termination octet, and
 * the client knows that it has not all.
 */
static const char *
send_message(size_t n, struct sending *s)
{
	const char *text;
	ssize_t size;

	if (message_begin(&drop, n) == -1 ||
	    (size = next_text(&text)) == -1)
		return give_up("read");
	if (s->top)
		put_line("+OK top follows");
	else
		put_line("+OK %lld octets", (long long)drop.messages[n].octets);
	while (size > 0 && put_text(s, text, (size_t)size))
		size = message_ended(&drop) ? 0 : next_text(&text);
	if (size == -1 || (size > 0 && leave_text() == -1)) {
		give_up("read");
		end_session("changed");
	}
	if (out.data[out.size - 1] != '\n') {
		put("\r\n", 2);
		s->octets += 2;
	}
	put_line(".");
	return NULL;
}

static const char *
cmd_retr(char **args)
{
	struct sending s = { .top = false };
	const char *error;
	size_t n;

	if ((error = message_arg(args[0], &n)) != NULL ||
	    (error = send_message(n, &s)) != NULL)
		return error;
	session.retrieved++;
	session.retrieved_octets += s.octets;
	return NULL;
}

static const char *
cmd_top(char **args)
{
	struct sending s = { .top = true };
	const char *error;
	size_t n;

	if ((error = message_arg(args[0], &n)) != NULL)
		return error;
	if (!digits(args[1], &s.lines))
		return "not a number of lines";
	if ((error = send_message(n, &s)) != NULL)
		return error;
	session.topped++;
	session.topped_octets += s.octets;
	return NULL;
}

/* ---- AUTHORIZATION and TRANSACTION ---- */

static const char *
cmd_capa(char **args)
{
	(void)args;
	put_line("+OK capabilities follow");
	put_line("TOP");
	put_line("UIDL");
	put_line("RESP-CODES");
	put_line("AUTH-RESP-CODE");
	put_line("PIPELINING");
	put_line("EXPIRE NEVER");
	if (session.passwords) {
		put_line("USER");
		put_line("SASL PLAIN");
	}
	put_line("IMPLEMENTATION pop3d");
	put_line(".");
	return NULL;
}

static const char *
cmd_noop(char **args)
{
	(void)args;
	put_line("+OK nothing done");
	return NULL;
}

static const char *
cmd_quit(char **args)
{
	(void)args;
	session.ending = "quit";
	put_line("+OK bye");
	return NULL;
}

/* ---- UPDATE ---- */

/* QUIT in TRANSACTION.  Who has the answer finds the maildrop free. */
static const char *
cmd_update(char **args)
{
	long long octets;

	session.state = UPDATE;
	session.deleted = drop.count - totals(&octets);
	if (maildrop_update(&drop) == -1) {
		session.deleted = 0;
		return give_up("update");
	}
	close_maildrop();
	return cmd_quit(args);
}

/* ---- commands and states ---- */

static const struct command authorization[] = {
	{ "AUTH", 0, 2, cmd_auth },
	{ "CAPA", 0, 0, cmd_capa },
	{ "PASS", 0, REST, cmd_pass },
	{ "QUIT", 0, 0, cmd_quit },
	{ "STLS", 0, 0, cmd_stls },
	{ "USER", 1, 1, cmd_user },
	{ NULL, 0, 0, NULL }
};

static const struct command transaction[] = {
	{ "CAPA", 0, 0, cmd_capa },
	{ "DELE", 1, 1, cmd_dele },
	{ "LIST", 0, 1, cmd_list },
	{ "NOOP", 0, 0, cmd_noop },
	{ "QUIT", 0, 0, cmd_update },
	{ "RETR", 1, 1, cmd_retr },
	{ "RSET", 0, 0, cmd_rset },
	{ "STAT", 0, 0, cmd_stat },
	{ "TOP", 2, 2, cmd_top },
	{ "UIDL", 0, 1, cmd_uidl },
	{ NULL, 0, 0, NULL }
};

static const struct command *
find(const struct command *table, const char *name)
{
	for (; table->name != NULL; table++)
		if (strcasecmp(table->name, name) == 0)
			return table;
	return NULL;
}

/* The first max words of line go to args; how many there are, or max + 1. */
static int
split(char *line, char **args, int max)
{
	char *arg;
	int n = 0;

	while (n <= max && (arg = strsep(&line, " ")) != NULL)
		if (*arg != '\0' && n++ < max)
			args[n - 1] = arg;
	return n;
}

static const char *
run(const struct command *table, char *line)
{
	const struct command *cmd;
	char *args[3] = { NULL }, *name = strsep(&line, " ");
	int n;

	if ((cmd = find(table, name)) == NULL)
		return bad(find(authorization, name) != NULL ||
		    find(transaction, name) != NULL ?
		    "not in this state" : "unknown command");
	if (cmd->max == REST) {
		n = line != NULL && *line != '\0';
		args[0] = line;
	} else
		n = split(line, args, cmd->max);
	if (n < cmd->min)
		return bad("argument missing");
	if (n > cmd->max && cmd->max != REST)
		return bad("too many arguments");
	session.bad = 0;
	return cmd->run(args);
}

/*
 * All is released and logged, but who was refused hears why: mail programs try
 * another way to log in at once, and show their user a lost connection, or ask
 * for a new password, if nobody is there.  What was sent is read to its end, or
 * else TCP's reset could overtake the answer.
 */
static void
farewell(const char *error)
{
	const char *line;
	bool quit = false;
	int n;

	session.state = FAREWELL;
	session.deadline = now() + FAREWELL_SECONDS * SECOND;
	for (n = 0; n < FAREWELL_LINES && !quit; n++) {
		line = read_line(SASL_MAX_OCTETS);
		quit = line != NULL && strcasecmp(line, "QUIT") == 0;
		/* What was marked is still there: no word of success. */
		if (quit && !session.marked)
			put_line("+OK bye");
		else
			put_line("-ERR %s", error);
		wipe_input();
	}
	flush();
	while (shutdown(STDOUT_FILENO, SHUT_WR) == 0) {
		in.next = in.last;
		fill();
	}
}

/* One command, one response, which may be the last. */
static void
serve(const struct command *table)
{
	char *line = read_line(LINE_MAX_OCTETS);
	const char *error;

	error = line == NULL ? bad("line too long, or with NUL") :
	    run(table, line);
	if (table == authorization)
		wipe_input();
	if (error != NULL)
		put_line("-ERR %s", error);
	if (session.bad == BAD_MAX)
		session.ending = "bad-commands";
	if (session.ending == NULL)
		return;
	close_maildrop();
	flush();
	log_end(session.ending);
	if (error != NULL)
		farewell(error);
	exit(0);
}

/* ---- start ---- */

static void
usage(void)
{
	fprintf(stderr, "usage: %s [-dPpsV] [-m path] [-t seconds]\n",
	    getprogname());
	exit(64);
}

static void
options(int argc, char **argv)
{
	const char *error;
	int c;

	while ((c = getopt(argc, argv, "dm:Ppst:V")) != -1)
		switch (c) {
		case 'd':
			option.debug = true;
			break;
		case 'm':
			if (optarg[0] != '/' && optarg[0] != '%')
				usage();
			option.mailbox = optarg;
			break;
		case 'P':
			option.proxy = true;
			break;
		case 'p':
			option.clear = true;
			break;
		case 's':
			option.encrypted = true;
			break;
		case 't':
			option.autologout = (unsigned int)strtonum(optarg,
			    AUTOLOGOUT_MIN, INT_MAX, &error);
			if (error != NULL) {
				warnx("-t %s is %s (at least %d)", optarg,
				    error, AUTOLOGOUT_MIN);
				usage();
			}
			break;
		case 'V':
			puts("pop3d " POP3D_VERSION);
			exit(0);
		default:
			usage();
		}
	if (optind != argc)
		usage();
}

/* A soft limit, where more can be had, would cut UPDATE short. */
static void
lift_file_size(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_FSIZE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_FSIZE, &limit);
	}
}

/*
 * A client that vanished, a telephone out of reach, frees its maildrop after
 * two minutes.  All this fails on what is no socket, and is not needed then.
 */
static void
set_socket(void)
{
	static const struct {
		int	level, name, value;
	} all[] = {
		{ SOL_SOCKET, SO_KEEPALIVE, 1 },
		{ IPPROTO_TCP, TCP_KEEPIDLE, 60 },
		{ IPPROTO_TCP, TCP_KEEPINTVL, 15 },
		{ IPPROTO_TCP, TCP_KEEPCNT, 4 },
		{ IPPROTO_TCP, TCP_NODELAY, 1 },
	};
	size_t i;

	for (i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		setsockopt(STDIN_FILENO, all[i].level, all[i].name,
		    &all[i].value, sizeof(all[i].value));
}

/* Nothing that was inherited is trusted. */
static void
start(void)
{
	int fd;
	size_t i;

	sigemptyset(&ending);
	for (i = 0; i < sizeof(ending_signals) / sizeof(int); i++)
		sigaddset(&ending, ending_signals[i]);
	sigprocmask(SIG_SETMASK, &ending, NULL);
	dispose(SIG_DFL);
	signal(SIGCHLD, SIG_DFL);	/* PAM's modules wait for children */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	protect_memory();
	lift_file_size();
	closefrom(STDERR_FILENO + 1);
	/* stderr may be the client, to whom libraries have nothing to say. */
	while ((fd = open("/dev/null", O_RDWR)) != -1 && fd <= STDERR_FILENO)
		continue;
	if (fd == -1)
		err(71, "/dev/null");
	if ((signalled = signalfd(-1, &ending, SFD_CLOEXEC)) == -1)
		err(71, "signalfd");
	if (!option.debug)
		dup2(fd, STDERR_FILENO);
	open_log();
	tzset();
	umask(077);
	session.began = time(NULL);
	session.deadline = now() + LOGIN_SECONDS * SECOND;
	set_socket();
}

/*
 * Only what is an address, in the form that the log has: without a zone, as
 * of fe80::1%eth0.
 */
static bool
set_peer(const char *text)
{
	char buf[INET6_ADDRSTRLEN], *host = buf;
	struct in6_addr address;
	size_t size = strcspn(text, "%");

	if (size >= sizeof(buf))
		return false;
	memcpy(buf, text, size);
	buf[size] = '\0';
	if (strncasecmp(buf, "::ffff:", 7) == 0 &&
	    inet_pton(AF_INET, buf + 7, &address) == 1)
		host += 7;
	if (inet_pton(AF_INET, host, &address) != 1 &&
	    inet_pton(AF_INET6, host, &address) != 1)
		return false;
	strlcpy(session.peer, host, sizeof(session.peer));
	setproctitle("%s", session.peer);
	return true;
}

static bool
is_loopback(void)
{
	return strncmp(session.peer, "127.", 4) == 0 ||
	    strcmp(session.peer, "::1") == 0;
}

/*
 * Who the client is, as far as that can be told.  A peer on this host may be a
 * wrapper, stunnel(8) for one, that says in a variable whom it speaks for.
 */
static void
find_peer(void)
{
	static const char *const variables[] = { "TCPREMOTEIP", "REMOTE_HOST",
	    "REMOTE_ADDR" };
	struct sockaddr_storage ss;
	socklen_t size = sizeof(ss);
	char host[INET6_ADDRSTRLEN];
	const void *address = NULL;
	const char *value;
	size_t i;

	memset(&ss, 0, sizeof(ss));
	if (getpeername(STDIN_FILENO, (struct sockaddr *)&ss, &size) == 0) {
		if (ss.ss_family == AF_INET)
			address = &((struct sockaddr_in *)&ss)->sin_addr;
		if (ss.ss_family == AF_INET6)
			address = &((struct sockaddr_in6 *)&ss)->sin6_addr;
	}
	if (address != NULL && inet_ntop(ss.ss_family, address, host,
	    sizeof(host)) != NULL && set_peer(host) && !is_loopback())
		return;
	for (i = 0; i < sizeof(variables) / sizeof(variables[0]); i++) {
		if ((value = getenv(variables[i])) == NULL)
			continue;
		if (set_peer(value))
			return;
		/* Somebody, but not this host. */
		strlcpy(session.peer, "unknown", sizeof(session.peer));
	}
}

/*
 * PROXY v1: "PROXY TCP4 192.0.2.7 192.0.2.1 56324 110" with CRLF, or "PROXY
 * UNKNOWN" and anything.  Who sends something else is no proxy of ours.
 */
static void
read_proxy(void)
{
	char *line = read_line(PROXY_MAX_OCTETS), *args[6];
	unsigned char address[sizeof(struct in6_addr)];
	unsigned long port;
	int family, i;

	/* read_line() made the CR a NUL, if there was one. */
	if (line == NULL || in.next < 2 ||
	    line + strlen(line) != in.data + in.next - 2)
		end_session("proxy");
	strlcpy(session.peer, "unknown", sizeof(session.peer));
	if (strcmp(line, "PROXY UNKNOWN") == 0 ||
	    strncmp(line, "PROXY UNKNOWN ", 14) == 0)
		return;
	for (i = 0; i < 6; i++)
		args[i] = strsep(&line, " ");
	if (args[5] == NULL || line != NULL || strcmp(args[0], "PROXY") != 0)
		end_session("proxy");
	family = strcmp(args[1], "TCP4") == 0 ? AF_INET :
	    strcmp(args[1], "TCP6") == 0 ? AF_INET6 : AF_UNSPEC;
	for (i = 2; i < 4; i++) {
		args[i][strcspn(args[i], "%")] = '\0';
		if (family == AF_UNSPEC ||
		    inet_pton(family, args[i], address) != 1 ||
		    !digits(args[i + 2], &port) || port > 65535)
			end_session("proxy");
	}
	set_peer(args[2]);
}

int
main(int argc, char **argv, char **envp)
{
	setproctitle_init(argc, argv, envp);
	options(argc, argv);
	start();
	find_peer();
	if (option.proxy)
		read_proxy();
	session.passwords = option.encrypted || option.clear ||
	    is_loopback() || isatty(STDIN_FILENO);

	put_line("+OK POP3 server ready");
	while (session.state == AUTHORIZATION)
		serve(authorization);
	for (;;)
		serve(transaction);
}
