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
 * What somebody could do who took over a session: this does it in place of the
 * session, after the real drop_privileges() and confine().
 *
 * usage: confine_probe user mailbox other's-mailbox
 *
 * prints "what: error" for each attempt, "ok" for those that succeed.
 */

#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <netinet/in.h>

#include <bsd/unistd.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "pop3d.h"

static void	 attempt(const char *, int);
static int	 connect_abstract(void);
static int	 listen_abstract(void);
static int	 new_process(void);
static int	 tcp(int (*)(int, const struct sockaddr *, socklen_t));
static int	 take_locks(int);
static int	 use_mailbox(int);

int
main(int argc, char **argv)
{
	const struct passwd *pw;
	const char *missing;
	struct stat st;
	char *name, buf[256];
	int dir, fd;
	pid_t other;

	if (argc != 4 || (pw = getpwnam(argv[1])) == NULL)
		errx(1, "usage: confine_probe user mailbox other's-mailbox");
	openlog("confine_probe", LOG_NDELAY, LOG_MAIL);
	tzset();
	if ((dir = open(dirname(strdup(argv[2])), O_RDONLY)) == -1 ||
	    (fd = open(argv[2], O_RDWR)) == -1 || fstat(dir, &st) == -1)
		err(1, "%s", argv[2]);
	drop_privileges(pw, st.st_gid);
	listen_abstract();
	if ((other = fork()) == 0) {
		closefrom(0);	/* or it had the locks, too */
		sleep(60);
		_exit(0);
	}
	missing = confine(dir);
	printf("confine: %s\n", missing == NULL ? "ok" : missing);

	/* Whoever takes over a session can do this as well as we can. */
	attempt("raise the spool's gid", setegid(st.st_gid));

	name = basename(argv[3]);
	attempt("read another's mailbox", open(argv[3], O_RDONLY));
	attempt("write another's mailbox", open(argv[3], O_WRONLY));
	attempt("read it by its directory", openat(dir, name, O_RDONLY));
	attempt("empty another's mailbox", truncate(argv[3], 0));
	attempt("read the passwords", open("/etc/shadow", O_RDONLY));
	attempt("read any file", open("/etc/passwd", O_RDONLY));
	attempt("list the spool", open(dirname(argv[2]), O_RDONLY));
	attempt("make a directory", mkdirat(dir, "probe.dir", 0700));
	attempt("make a symbolic link", symlinkat("/", dir, "probe.symlink"));
	attempt("start a process", new_process());
	attempt("bind a TCP port", tcp(bind));
	attempt("connect by TCP", tcp(connect));
	/* Opened for neither reading nor writing: Landlock lets that pass. */
	attempt("control a device", ioctl(open("/dev/null", 3), TCGETS, buf));
	attempt("connect to an abstract socket", connect_abstract());
	attempt("signal another process", kill(other, SIGKILL));
	attempt("become root", setuid(0));
	attempt("become root in effect", seteuid(0));
	attempt("get root's group", setgid(0));
	attempt("get other groups", setgroups(0, NULL));

	/* These a session needs. */
	attempt("make a file", mknodat(dir, "probe.new", S_IFREG | 0600, 0));
	attempt("link it", linkat(dir, "probe.new", dir, "probe.link", 0));
	attempt("rename it", renameat(dir, "probe.link", dir, "probe.name"));
	attempt("touch it", utimensat(dir, "probe.name", NULL, 0));
	attempt("look at it", fstatat(dir, "probe.name", &st, 0));
	attempt("remove it", unlinkat(dir, "probe.name", 0));
	attempt("remove the other", unlinkat(dir, "probe.new", 0));
	attempt("rename another's mailbox",
	    renameat(dir, name, dir, "probe.o"));
	attempt("remove another's mailbox", unlinkat(dir, "probe.o", 0) == 0 ?
	    0 : unlinkat(dir, name, 0));
	attempt("return the spool's gid", setegid(pw->pw_gid));
	attempt("lock the own mailbox", take_locks(fd));
	attempt("read and write it", use_mailbox(fd));
	syslog(LOG_INFO, "still heard");
	fflush(stdout);
	execl("/bin/echo", "echo", "run a program: ok", NULL);
	attempt("run a program", -1);
	return 0;
}

static void
attempt(const char *what, int result)
{
	printf("%s: %s\n", what, result == -1 ? strerrorname_np(errno) : "ok");
}

static int
new_process(void)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	if (pid != -1)
		waitpid(pid, NULL, 0);
	return pid;
}

/* Port 1 of this host, where nobody listens: without a right, or refused. */
static int
tcp(int (*call)(int, const struct sockaddr *, socklen_t))
{
	struct sockaddr_in in = { .sin_family = AF_INET,
	    .sin_addr = { htonl(INADDR_LOOPBACK) } };

	in.sin_port = htons(call == bind ? 10000 : 1);
	return call(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&in,
	    sizeof(in));
}

static const struct sockaddr_un abstract = { .sun_family = AF_UNIX,
    .sun_path = "\0confine_probe" };

static int
listen_abstract(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	return bind(fd, (const struct sockaddr *)&abstract,
	    sizeof(abstract)) == -1 ? -1 : listen(fd, 1);
}

static int
connect_abstract(void)
{
	return connect(socket(AF_UNIX, SOCK_STREAM, 0),
	    (const struct sockaddr *)&abstract, sizeof(abstract));
}

static int
take_locks(int fd)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	return fcntl(fd, F_OFD_SETLK, &lock) == -1 ? -1 :
	    flock(fd, LOCK_EX | LOCK_NB);
}

static int
use_mailbox(int fd)
{
	char octet;

	if (pread(fd, &octet, 1, 0) == -1 || pwrite(fd, &octet, 1, 0) == -1 ||
	    ftruncate(fd, 1) == -1)
		return -1;
	return fsync(fd);
}
