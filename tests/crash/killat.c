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
 * Run a command and do something to one of its system calls:
 *
 *	killat [-w] [-a action] [-n number] [-m marker] [-l list] [-t seconds]
 *	    [-d milliseconds] command ...
 *
 * Calls are counted from 1, or, with -m, after the read(2) from descriptor 0
 * that brought in the marker.  To call -n this is done:
 *	kill	SIGKILL before it is carried out (the default)
 *	half	a write of half of its bytes, then SIGKILL; of 512 or less an
 *		eighth, for records are in the first quarter of theirs
 *	short	a read or write of half of its bytes
 *	term	SIGTERM before it
 *	1..4095	it is not carried out and fails with this errno; but a close
 *		is carried out, as Linux does when it fails, and a brk leaves
 *		the break where it is
 * Sleeping costs no time: the sleeping calls return at once; or, with -w, they
 * are not wanted: the command is killed and the exit status is 98.
 * With -d they do, and before each call that changes a file there is a delay:
 * what another process can do in between, it does.
 * -l writes a line for every call counted: its number, its first argument.
 * After -t seconds (default 120) the command is killed and the exit status is
 * 99; otherwise it is the command's, or 128 and the signal's number.
 */

#include <sys/personality.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>

#include <err.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef __x86_64__
#error "killat knows the registers of x86_64 only"
#endif

static pid_t	 child;
static FILE	*list;

static void
stop(int status)
{
	kill(child, SIGKILL);
	_exit(status);
}

static void
hung(int sig)
{
	(void)sig;
	stop(99);
}

static void
finish(int status)
{
	if (list != NULL)
		fclose(list);
	exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) :
	    WEXITSTATUS(status));
}

static void
kill_child(void)
{
	int	status;

	kill(child, SIGKILL);
	while (waitpid(child, &status, 0) == child &&
	    !WIFSIGNALED(status) && !WIFEXITED(status))
		continue;
	finish(status);
}

/* Let the child run to its next stop at a system call, in or out. */
static void
resume(void)
{
	int	sig = 0, status;

	for (;;) {
		if (ptrace(PTRACE_SYSCALL, child, NULL, sig) == -1)
			err(100, "ptrace");
		if (waitpid(child, &status, 0) != child)
			err(100, "waitpid");
		if (!WIFSTOPPED(status))
			finish(status);
		sig = WSTOPSIG(status);
		if (sig == (SIGTRAP | 0x80))
			return;
		if (sig == SIGTRAP)	/* the exec */
			sig = 0;
	}
}

static bool
has_read(const struct user_regs_struct *regs, const char *marker)
{
	char		buf[65536];
	struct iovec	here = { buf, sizeof(buf) };
	struct iovec	there = { (void *)regs->rsi, (size_t)regs->rax };
	ssize_t		n;

	if (regs->orig_rax != SYS_read || regs->rdi != 0 ||
	    (long)regs->rax <= 0)
		return false;
	n = process_vm_readv(child, &here, 1, &there, 1, 0);
	return n > 0 && memmem(buf, (size_t)n, marker, strlen(marker)) != NULL;
}

static bool
is_sleep(const struct user_regs_struct *regs)
{
	return regs->orig_rax == SYS_nanosleep ||
	    regs->orig_rax == SYS_clock_nanosleep;
}

static bool
is_change(const struct user_regs_struct *regs)
{
	return regs->orig_rax == SYS_pwrite64 || regs->orig_rax == SYS_fsync ||
	    regs->orig_rax == SYS_ftruncate;
}

/*
 * Carry out the call that the child has entered with another number or other
 * arguments, which then are what they were.
 */
static void
altered(const struct user_regs_struct *other, struct user_regs_struct *regs)
{
	struct user_regs_struct after;

	ptrace(PTRACE_SETREGS, child, NULL, other);
	resume();
	ptrace(PTRACE_GETREGS, child, NULL, &after);
	regs->rax = after.rax;
	regs->rip = after.rip;
	ptrace(PTRACE_SETREGS, child, NULL, regs);
}

/* Have it return result instead. */
static void
instead(struct user_regs_struct *regs, long result)
{
	struct user_regs_struct other = *regs;

	if (regs->orig_rax == SYS_brk) {
		other.rdi = 0;
		altered(&other, regs);
		return;
	}
	if (regs->orig_rax != SYS_close)
		other.orig_rax = (unsigned long)-1;
	altered(&other, regs);
	regs->rax = (unsigned long)result;
	ptrace(PTRACE_SETREGS, child, NULL, regs);
}

/* Have a read or write do half of its work; or an eighth: a torn record. */
static void
by_half(struct user_regs_struct *regs)
{
	struct user_regs_struct other = *regs;

	other.rdx /= other.rdx <= 512 ? 8 : 2;
	altered(&other, regs);
}

int
main(int argc, char *argv[])
{
	struct user_regs_struct	 regs;
	const char		*action = "kill", *marker = NULL;
	long			 count = 0, number = 0;
	bool			 counting, sleeps = true;
	unsigned int		 delay = 0, seconds = 120;
	int			 ch, status;

	while ((ch = getopt(argc, argv, "+a:d:n:m:l:t:w")) != -1)
		switch (ch) {
		case 'a':
			action = optarg;
			break;
		case 'd':
			delay = (unsigned int)atoi(optarg);
			break;
		case 'n':
			number = atol(optarg);
			break;
		case 'm':
			marker = optarg;
			break;
		case 'l':
			if ((list = fopen(optarg, "we")) == NULL)
				err(100, "%s", optarg);
			break;
		case 't':
			seconds = (unsigned int)atoi(optarg);
			break;
		case 'w':
			sleeps = false;
			break;
		default:
			return 100;
		}
	argv += optind;

	if ((child = fork()) == -1)
		err(100, "fork");
	if (child == 0) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		personality(ADDR_NO_RANDOMIZE);	/* the same calls each time */
		raise(SIGSTOP);
		execv(argv[0], argv);
		err(100, "%s", argv[0]);
	}
	if (waitpid(child, &status, 0) != child || !WIFSTOPPED(status) ||
	    ptrace(PTRACE_SETOPTIONS, child, NULL,
	    PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD |
	    PTRACE_O_TRACEEXEC) == -1)
		err(100, "ptrace");
	signal(SIGALRM, hung);
	alarm(seconds);

	for (counting = marker == NULL;;) {
		resume();
		ptrace(PTRACE_GETREGS, child, NULL, &regs);
		if (counting && list != NULL)
			fprintf(list, "%lld %d\n", regs.orig_rax,
			    (int)regs.rdi);
		if (counting && ++count == number) {
			if (strcmp(action, "kill") == 0)
				kill_child();
			else if (strcmp(action, "term") == 0) {
				kill(child, SIGTERM);
				resume();
			} else if (strcmp(action, "half") == 0 ||
			    strcmp(action, "short") == 0) {
				by_half(&regs);
				if (strcmp(action, "half") == 0)
					kill_child();
			} else
				instead(&regs, -atol(action));
		} else if (delay > 0) {
			if (is_change(&regs))
				usleep(delay * 1000);
			resume();
		} else if (is_sleep(&regs)) {
			if (!sleeps)
				stop(98);
			instead(&regs, 0);
		}
		else
			resume();
		ptrace(PTRACE_GETREGS, child, NULL, &regs);
		if (!counting)
			counting = has_read(&regs, marker);
	}
}
