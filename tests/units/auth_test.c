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
 * auth.o alone, with the real libpam under pam_wrapper.  test_unit.py runs one
 * process for each test, "auth_test name", because pam_wrapper takes its
 * services once; it sets
 *
 *	AUTH_TEST_MODULES  the folder of pam_wrapper's modules
 *	AUTH_TEST_BUILD  that of pam_ask.so
 *	AUTH_TEST_USER	an account that auth_user() may let in
 *	AUTH_TEST_OTHER	one of another uid
 *	AUTH_TEST_GROUPS  as root: an account with supplementary groups
 *	AUTH_TEST_EMPTY   and one without a password
 */

#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>

#include <security/pam_appl.h>

#include <ctype.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "pop3d.h"

#define MATRIX	"auth required %1$s/pam_matrix.so passdb=%2$s/passdb\n" \
	"account required %1$s/pam_matrix.so passdb=%2$s/passdb\n"
#define SPOOL_GID	8

static char dir[] = "/tmp/auth_test.XXXXXX";
static const char *user, *other, *modules;
static struct passwd *pw;
static const char *why;
static int wiped;		/* copies of the password "secret" */

void __real_freezero(void *, size_t);
void __wrap_freezero(void *, size_t);

void
__wrap_freezero(void *p, size_t n)
{
	wiped += n == strlen("secret") && memcmp(p, "secret", n) == 0;
	__real_freezero(p, n);
}

static void
put(const char *name, const char *text)
{
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	assert_non_null(f = fopen(path, "w"));
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

/* As sssd has it where names have no case. */
static bool names_have_no_case;

struct passwd *__real_getpwnam(const char *);
struct passwd *__wrap_getpwnam(const char *);

struct passwd *
__wrap_getpwnam(const char *name)
{
	char lower[512];
	size_t i;

	if (!names_have_no_case)
		return __real_getpwnam(name);
	for (i = 0; name[i] != '\0' && i < sizeof(lower) - 1; i++)
		lower[i] = (char)tolower((unsigned char)name[i]);
	lower[i] = '\0';
	return __real_getpwnam(lower);
}

/*
 * pam_wrapper makes a folder for each process, and two that look for a free
 * name at once find the same: so the first call of PAM is one at a time.
 */
static void
begin_pam(void)
{
	const struct pam_conv conv = { NULL, NULL };
	pam_handle_t *pam;
	int fd = open("/tmp", O_RDONLY | O_DIRECTORY);

	assert_int_equal(flock(fd, LOCK_EX), 0);
	assert_int_equal(pam_start("pop3d", user, &conv, &pam), PAM_SUCCESS);
	assert_int_equal(pam_end(pam, PAM_SUCCESS), PAM_SUCCESS);
	close(fd);
}

static void service(const char *, ...) __attribute__((format(printf, 1, 2)));

/* Write the PAM service "pop3d" and what pam_matrix knows. */
static void
service(const char *format, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	put("pop3d", text);
	snprintf(text, sizeof(text), "%s:secret:pop3d\n%s:other:pop3d\n"
	    "root:secret:pop3d\nghost:secret:pop3d\n", user, other);
	put("passdb", text);
	assert_int_equal(setenv("PAM_WRAPPER_SERVICE_DIR", dir, 1), 0);
	begin_pam();
}

static void
expect(enum auth want, const char *name, const char *pass)
{
	assert_int_equal(auth_user(name, pass, NULL, &pw, &why), want);
	if (want != AUTH_OK)
		assert_non_null(why);
}

static void
right_password(void **state)
{
	(void)state;
	service(MATRIX, modules, dir);
	expect(AUTH_OK, user, "secret");
	assert_string_equal(pw->pw_name, user);
	assert_int_not_equal(pw->pw_uid, 0);
}

/* People type their address, or a capital: PAM hears the account's name. */
static void
the_name_in_other_forms(void **state)
{
	const char *const forms[] = { "%s", "%s@example.org", "%s@", "%s@a@b" };
	char typed[512], *p;
	size_t i;

	(void)state;
	service(MATRIX, modules, dir);
	for (i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
		snprintf(typed, sizeof(typed), forms[i], user);
		expect(AUTH_OK, typed, "secret");
		assert_string_equal(pw->pw_name, user);
		expect(AUTH_REFUSED, typed, "wrong");
		assert_string_equal(pw->pw_name, user);
		for (p = typed; *p != '\0'; p++)
			*p = (char)toupper(*p);
		expect(AUTH_OK, typed, "secret");
		assert_string_equal(pw->pw_name, user);
	}
	expect(AUTH_REFUSED, "@example.org", "secret");
	assert_null(pw);
	expect(AUTH_REFUSED, "", "secret");
	assert_null(pw);
}

/* Else each form has a count of failures of its own, and a name in the log. */
static void
without_case_pam_hears_the_systems_name(void **state)
{
	const char *const forms[] = { "%s", "%s@example.org" };
	char typed[512];
	size_t i;

	(void)state;
	service(MATRIX, modules, dir);
	names_have_no_case = true;
	for (i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
		snprintf(typed, sizeof(typed), forms[i], user);
		typed[0] = (char)toupper((unsigned char)typed[0]);
		expect(AUTH_OK, typed, "secret");
		assert_string_equal(pw->pw_name, user);
		expect(AUTH_REFUSED, typed, "wrong");
		assert_string_equal(pw->pw_name, user);
	}
	names_have_no_case = false;
}

/* PAM knows it in the form in which it was typed, and the system in none. */
static void
an_unknown_name_is_asked_as_typed(void **state)
{
	(void)state;
	service(MATRIX, modules, dir);
	put("passdb", "Ghost@example.org:secret:pop3d\n");
	expect(AUTH_REFUSED, "Ghost@example.org", "secret");
	assert_string_equal(why, "no-account");
	expect(AUTH_REFUSED, "Ghost@example.org", "wrong");
	assert_string_equal(why, "credentials");
}

static void
wrong_password(void **state)
{
	(void)state;
	service(MATRIX, modules, dir);
	expect(AUTH_REFUSED, user, "wrong");
}

static void
empty_password(void **state)
{
	(void)state;
	service(MATRIX, modules, dir);
	expect(AUTH_REFUSED, user, "");
}

static void
unknown_user(void **state)
{
	(void)state;
	service(MATRIX, modules, dir);
	expect(AUTH_REFUSED, "nobody-of-that-name", "secret");
}

/* PAM knows it, the system doesn't. */
static void
no_account(void **state)
{
	(void)state;
	service(MATRIX, modules, dir);
	expect(AUTH_REFUSED, "ghost", "secret");
	assert_string_equal(why, "no-account");
}

static void
root_is_refused(void **state)
{
	(void)state;
	service(MATRIX, modules, dir);
	expect(AUTH_REFUSED, "root", "secret");
	assert_string_equal(why, "root");
	expect(AUTH_REFUSED, "root", "wrong");
	assert_string_equal(why, "credentials");
}

/* Who is not root serves nobody but himself. */
static void
anothers_process(void **state)
{
	(void)state;
	if (getuid() == 0)
		skip();
	service(MATRIX, modules, dir);
	expect(AUTH_REFUSED, other, "other");
	assert_string_equal(why, "other-user");
}

static void
account_not_allowed(void **state)
{
	(void)state;
	service("auth required %s/pam_matrix.so passdb=%s/passdb\n"
	    "account required pam_deny.so\n", modules, dir);
	expect(AUTH_FORBIDDEN, user, "secret");
	assert_string_equal(why, "account");
}

static void
pam_changes_the_user(void **state)
{
	(void)state;
	service(MATRIX "account required %1$s/pam_set_items.so\n", modules,
	    dir);
	assert_int_equal(setenv("PAM_USER", other, 1), 0);
	expect(AUTH_REFUSED, user, "secret");
}

static void
pam_forgets_the_user(void **state)
{
	(void)state;
	service(MATRIX "account required %3$s/pam_ask.so\n", modules, dir,
	    getenv("AUTH_TEST_BUILD"));
	expect(AUTH_REFUSED, user, "secret");
	assert_string_equal(why, "user-changed");
}

/* What they were refused for is not that. */
static void
pam_changes_the_user_and_refuses(void **state)
{
	(void)state;
	service("auth required %1$s/pam_set_items.so\n"
	    "auth required pam_deny.so\naccount required pam_permit.so\n",
	    modules);
	assert_int_equal(setenv("PAM_USER", other, 1), 0);
	expect(AUTH_REFUSED, user, "secret");
	assert_string_equal(why, "credentials");
}

static void
module_is_missing(void **state)
{
	(void)state;
	service("auth required pam_of_that_name_is_none.so\n"
	    "account required pam_permit.so\n");
	expect(AUTH_TROUBLE, user, "secret");
	assert_string_equal(why, "pam");
}

static void
pam_is_out_of_order(void **state)
{
	(void)state;
	service("auth required %s/pam_matrix.so passdb=%s/none\n"
	    "account required pam_permit.so\n", modules, dir);
	assert_int_equal(unsetenv("PAM_MATRIX_PASSWD"), 0);
	expect(AUTH_TROUBLE, user, "secret");
}

struct said {			/* by PAM */
	int		code;
	enum auth	want, got;
	pthread_t	thread;
};

static void *
have_it_said(void *data)
{
	struct said *said = data;
	struct passwd *nobody;
	const char *reason;
	char pass[8];

	snprintf(pass, sizeof(pass), "%d", said->code);
	said->got = auth_user(user, pass, NULL, &nobody, &reason);
	return NULL;
}

/* Whether the password is wrong, or PAM cannot tell. */
static void
every_answer_of_pam(void **state)
{
	static struct said all[] = {
		{ .code = PAM_OPEN_ERR, .want = AUTH_TROUBLE },
		{ .code = PAM_SYMBOL_ERR, .want = AUTH_TROUBLE },
		{ .code = PAM_SERVICE_ERR, .want = AUTH_TROUBLE },
		{ .code = PAM_SYSTEM_ERR, .want = AUTH_TROUBLE },
		{ .code = PAM_BUF_ERR, .want = AUTH_TROUBLE },
		{ .code = PAM_AUTHINFO_UNAVAIL, .want = AUTH_TROUBLE },
		{ .code = PAM_ABORT, .want = AUTH_TROUBLE },
		{ .code = PAM_MODULE_UNKNOWN, .want = AUTH_TROUBLE },
		{ .code = PAM_CONV_ERR, .want = AUTH_TROUBLE },
		{ .code = PAM_AUTH_ERR, .want = AUTH_REFUSED },
		{ .code = PAM_USER_UNKNOWN, .want = AUTH_REFUSED },
		{ .code = PAM_MAXTRIES, .want = AUTH_REFUSED },
		{ .code = PAM_PERM_DENIED, .want = AUTH_REFUSED },
		{ .code = PAM_CRED_INSUFFICIENT, .want = AUTH_REFUSED },
	};
	const size_t count = sizeof(all) / sizeof(all[0]);
	size_t i;

	(void)state;
	service("auth required %s/pam_ask.so\n"
	    "account required pam_permit.so\n", getenv("AUTH_TEST_BUILD"));
	expect(AUTH_OK, user, "0");	/* PAM_SUCCESS */
	for (i = 0; i < count; i++)
		assert_int_equal(pthread_create(&all[i].thread, NULL,
		    have_it_said, &all[i]), 0);
	for (i = 0; i < count; i++) {
		assert_int_equal(pthread_join(all[i].thread, NULL), 0);
		assert_int_equal(all[i].got, all[i].want);
	}
}

/*
 * pam_ask.c says what and what it wants to hear.  Asked for the password and
 * something odd in one go, the copy made for it is wiped.
 */
static void
everything_is_asked(void **state)
{
	(void)state;
	wiped = 0;
	service("auth required %s/pam_ask.so %s\n"
	    "account required pam_permit.so\n", getenv("AUTH_TEST_BUILD"),
	    user);
	expect(AUTH_OK, user, "secret");
	assert_int_equal(wiped, 1);
}

/* A visible prompt is for the user's name, never for the password. */
static void
visible_prompt_gets_the_user(void **state)
{
	char text[64];

	(void)state;
	service("auth required %s/pam_matrix.so echo passdb=%s/passdb\n"
	    "account required pam_permit.so\n", modules, dir);
	snprintf(text, sizeof(text), "%s:%s:pop3d\n", user, user);
	put("passdb", text);
	expect(AUTH_OK, user, "secret");
}

static void
the_client_and_tty_are_told(void **state)
{
	(void)state;
	service(MATRIX "account required pam_succeed_if.so quiet "
	    "rhost = 192.0.2.7 tty = pop3 service = pop3d\n", modules, dir);
	assert_int_equal(auth_user(user, "secret", "192.0.2.7", &pw, &why),
	    AUTH_OK);
	assert_int_equal(auth_user(user, "secret", "192.0.2.8", &pw, &why),
	    AUTH_FORBIDDEN);
}

/* With nullok, as Debian has it, an account without a password. */
static void
account_without_password(void **state)
{
	const char *name = getenv("AUTH_TEST_EMPTY");

	(void)state;
	if (name == NULL)
		skip();		/* not root */
	service("auth required pam_unix.so nullok\n"
	    "account required pam_permit.so\n");
	expect(AUTH_REFUSED, name, "");
}

/* ---- what follows is done in a child, for it can't be undone ---- */

#define CHECK(what) do {						\
	if (!(what)) {							\
		fprintf(stderr, "%d: %s\n", __LINE__, #what);		\
		_exit(1);						\
	}								\
} while (0)

static int
in_child(void (*what)(void))
{
	pid_t pid = fork();
	int status;

	assert_int_not_equal(pid, -1);
	if (pid == 0) {
		what();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void
skip_unless_root(void)
{
	if (getuid() != 0)
		skip();
	assert_non_null(pw = getpwnam(getenv("AUTH_TEST_GROUPS")));
}

static int
compare(const void *a, const void *b)
{
	const gid_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static void
drop_and_look(void)
{
	uid_t ruid, euid, suid;
	gid_t rgid, egid, sgid, want[64], have[64];
	int n = 64, m;

	CHECK(getgrouplist(pw->pw_name, pw->pw_gid, want, &n) != -1);
	CHECK(n > 1);
	drop_privileges(pw, SPOOL_GID);
	CHECK(getresuid(&ruid, &euid, &suid) == 0);
	CHECK(ruid == pw->pw_uid && euid == ruid && suid == ruid);
	CHECK(getresgid(&rgid, &egid, &sgid) == 0);
	CHECK(rgid == pw->pw_gid && egid == rgid && sgid == SPOOL_GID);
	CHECK((m = getgroups(64, have)) == n);
	qsort(want, (size_t)n, sizeof(*want), compare);
	qsort(have, (size_t)m, sizeof(*have), compare);
	CHECK(memcmp(want, have, sizeof(*have) * (size_t)m) == 0);

	CHECK(setuid(0) == -1 && seteuid(0) == -1 && setreuid(0, 0) == -1);
	CHECK(setgid(0) == -1 && setegid(0) == -1);
	CHECK(setgroups(0, NULL) == -1);
	CHECK(setegid(SPOOL_GID) == 0 && setegid(pw->pw_gid) == 0);
}

static void
drop_without_spool(void)
{
	gid_t rgid, egid, sgid;

	drop_privileges(pw, pw->pw_gid);
	CHECK(getresgid(&rgid, &egid, &sgid) == 0);
	CHECK(rgid == pw->pw_gid && egid == rgid && sgid == rgid);
	CHECK(setegid(SPOOL_GID) == -1);
}

/* From now on what is logged is in a file of the folder. */
static void
log_to_file(void)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/log", dir);
	CHECK(freopen(path, "w", stderr) != NULL);
	openlog("auth_test", LOG_PERROR, LOG_MAIL);
}

static void
expect_logged(const char *text)
{
	char path[64], line[512] = "";
	FILE *f;

	snprintf(path, sizeof(path), "%s/log", dir);
	assert_non_null(f = fopen(path, "r"));
	assert_non_null(fgets(line, sizeof(line), f));
	assert_int_equal(fclose(f), 0);
	assert_non_null(strstr(line, text));
}

static void
drop_to_root(void)
{
	struct passwd root = *pw;

	log_to_file();
	root.pw_uid = 0;
	drop_privileges(&root, root.pw_gid);
}

static void
privileges_are_dropped(void **state)
{
	(void)state;
	skip_unless_root();
	assert_int_equal(in_child(drop_and_look), 0);
	assert_int_equal(in_child(drop_without_spool), 0);
}

static void
uid_0_is_no_drop(void **state)
{
	(void)state;
	skip_unless_root();
	assert_int_equal(in_child(drop_to_root), 71);
	expect_logged("did not become uid 0");
}

/* As root in a container may be. */
static void
drop_without_capabilities(void)
{
	struct __user_cap_header_struct head = {
	    .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[2] = { { 0, 0, 0 }, { 0, 0, 0 } };

	log_to_file();
	CHECK(syscall(SYS_capset, &head, none) == 0);
	drop_privileges(pw, SPOOL_GID);
}

static void
who_cannot_drop_goes_no_further(void **state)
{
	(void)state;
	skip_unless_root();
	assert_int_equal(in_child(drop_without_capabilities), 71);
	expect_logged("cannot become uid ");
}

/* Who runs it by newgrp(1) has another group there than in /etc/passwd. */
static void
drop_own(void)
{
	struct passwd me = { .pw_uid = getuid(), .pw_gid = getgid() + 1 };

	drop_privileges(&me, getgid());
	CHECK(getuid() == me.pw_uid && getgid() == me.pw_gid - 1);
}

static void
nothing_to_drop(void **state)
{
	(void)state;
	if (getuid() == 0)
		skip();
	assert_int_equal(in_child(drop_own), 0);
}

/*
 * Confined to the folder: files in it are created and removed, nothing is
 * opened, and what is open stays usable.
 */
static void
confine_and_look(void)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY), file, there;
	const char *missing;

	CHECK(fd != -1);
	CHECK((file = openat(fd, "open", O_RDWR | O_CREAT, 0600)) != -1);
	CHECK((there = openat(fd, "there", O_RDWR | O_CREAT, 0600)) != -1);
	if (getuid() == 0) {
		CHECK(fchown(fd, pw->pw_uid, pw->pw_gid) == 0);
		CHECK(fchown(file, pw->pw_uid, pw->pw_gid) == 0);
		CHECK(fchown(there, pw->pw_uid, pw->pw_gid) == 0);
		drop_privileges(pw, pw->pw_gid);
	}
	missing = confine(fd);
	CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
	CHECK(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0);
	CHECK(fork() == -1);
	CHECK(write(file, "x", 1) == 1 && ftruncate(file, 0) == 0);
	if (missing != NULL) {
		fprintf(stderr, "cannot have %s here\n", missing);
		_exit(2);
	}
	CHECK(open("/etc/passwd", O_RDONLY) == -1 && errno == EACCES);
	CHECK(openat(fd, "there", O_RDONLY) == -1 && errno == EACCES);
	CHECK(mkdirat(fd, "folder", 0700) == -1 && errno == EACCES);
	CHECK(linkat(fd, "open", fd, "new", 0) == 0);
	CHECK(unlinkat(fd, "new", 0) == 0 && unlinkat(fd, "there", 0) == 0);
	CHECK(unlinkat(fd, "open", 0) == 0);
}

static void
expect_confined(void)
{
	int status = in_child(confine_and_look);

	if (status == 2)
		skip();
	assert_int_equal(status, 0);
}

static void
confined_after_the_drop(void **state)
{
	(void)state;
	skip_unless_root();
	expect_confined();
}

static void
confined_without_a_drop(void **state)
{
	(void)state;
	if (getuid() == 0)
		skip();
	expect_confined();
}

#define ANY	UINT_MAX

/* From now on that call, with this or any first argument, is forbidden. */
static void
forbid(int call, unsigned int argument)
{
	const unsigned int low = offsetof(struct seccomp_data, args) +
	    (BYTE_ORDER == BIG_ENDIAN ? 4 : 0);
	struct sock_filter rules[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
		    offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned int)call, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, low),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, argument, 0,
		    argument != ANY),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
	};
	struct sock_fprog filter = { sizeof(rules) / sizeof(rules[0]), rules };

	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0);
}

static const struct lack {
	int		 call;
	unsigned int	 argument;
	const char	*told;
} lacks[] = {
	{ SYS_prctl, PR_SET_DUMPABLE, "undumpable" },
	{ SYS_prlimit64, ANY, "no processes" },
	{ SYS_prctl, PR_SET_NO_NEW_PRIVS, "no new privileges" },
	{ SYS_landlock_create_ruleset, ANY, "Landlock" },
}, no_rules[] = {
	{ SYS_landlock_add_rule, ANY, "Landlock" },
	{ SYS_landlock_restrict_self, ANY, "Landlock" },
}, *lack;

/* What is told begins with it; where it is one part, the others are had. */
static void
confine_in_part(void)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY);
	struct rlimit limit;
	const char *missing;
	char told[64];

	CHECK(fd != -1);
	forbid(lack->call, lack->argument);
	missing = confine(fd);
	snprintf(told, sizeof(told), "%s: %s", lack->told, strerror(EPERM));
	if (missing == NULL || strncmp(missing, told, strlen(told)) != 0) {
		fprintf(stderr, "%s is not told, but %s\n", told,
		    missing == NULL ? "nothing" : missing);
		_exit(1);
	}
	CHECK(lack->call == SYS_landlock_restrict_self ||
	    strcmp(missing, told) == 0);
	CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
	if (lack->call == SYS_prlimit64)
		return;
	CHECK(getrlimit(RLIMIT_NPROC, &limit) == 0 && limit.rlim_cur == 0);
}

static void
what_cannot_be_had_is_told(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(lacks) / sizeof(lacks[0]); i++) {
		lack = &lacks[i];
		assert_int_equal(in_child(confine_in_part), 0);
	}
	if (syscall(SYS_landlock_create_ruleset, NULL, 0,
	    LANDLOCK_CREATE_RULESET_VERSION) == -1)
		return;
	for (i = 0; i < sizeof(no_rules) / sizeof(no_rules[0]); i++) {
		lack = &no_rules[i];
		assert_int_equal(in_child(confine_in_part), 0);
	}
}

/* The gid to create files with is root's group-writable directory's. */
static void
the_spool_gives_its_gid(void **state)
{
	char path[64];

	(void)state;
	if (geteuid() != 0)
		skip();
	snprintf(path, sizeof(path), "%s/alice", dir);
	assert_int_equal(chmod(dir, 0775), 0);
	assert_int_equal(spool_gid(path, 12345), 12345);	/* gid 0 */
	assert_int_equal(chown(dir, (uid_t)-1, SPOOL_GID), 0);
	assert_int_equal(spool_gid(path, 12345), SPOOL_GID);
	assert_int_equal(chmod(dir, 02775), 0);
	assert_int_equal(spool_gid(path, 12345), SPOOL_GID);
	assert_int_equal(chmod(dir, 0777), 0);
	assert_int_equal(spool_gid(path, 12345), 12345);
	assert_int_equal(chmod(dir, 0755), 0);
	assert_int_equal(spool_gid(path, 12345), 12345);
	assert_int_equal(chmod(dir, 0775), 0);
	assert_int_equal(chown(dir, 1, SPOOL_GID), 0);
	assert_int_equal(spool_gid(path, 12345), 12345);
}

/* Wherever a link of root's leads; and no other link is followed. */
static void
the_spool_behind_a_link(void **state)
{
	char path[64], link[64];

	(void)state;
	if (geteuid() != 0)
		skip();
	snprintf(link, sizeof(link), "%s/link", dir);
	snprintf(path, sizeof(path), "%s/link/alice", dir);
	assert_int_equal(symlink("spool", link), 0);
	assert_int_equal(spool_gid(path, 12345), 12345);	/* nowhere */
	snprintf(link, sizeof(link), "%s/spool", dir);
	assert_int_equal(mkdir(link, 0775), 0);
	assert_int_equal(chmod(link, 0775), 0);
	assert_int_equal(chown(link, 0, SPOOL_GID), 0);
	assert_int_equal(spool_gid(path, 12345), SPOOL_GID);
	assert_int_equal(chown(link, 1, SPOOL_GID), 0);
	assert_int_equal(spool_gid(path, 12345), 12345);
	assert_int_equal(chown(link, 0, SPOOL_GID), 0);
	assert_int_equal(spool_gid(path, 12345), SPOOL_GID);
	snprintf(link, sizeof(link), "%s/link", dir);
	assert_int_equal(lchown(link, 1, 1), 0);
	assert_int_equal(spool_gid(path, 12345), 12345);
}

static int
make_dir(void **state)
{
	(void)state;
	user = getenv("AUTH_TEST_USER");
	other = getenv("AUTH_TEST_OTHER");
	modules = getenv("AUTH_TEST_MODULES");
	if (user == NULL || other == NULL || modules == NULL ||
	    mkdtemp(dir) == NULL)
		return -1;
	return chmod(dir, 0755);
}

static int
remove_dir(void **state)
{
	static const char *const names[] = { "pop3d", "passdb", "open",
	    "there", "log", "link" };
	char path[64];
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		unlink(path);
	}
	snprintf(path, sizeof(path), "%s/spool", dir);
	rmdir(path);
	return rmdir(dir);
}

int
main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(right_password),
		cmocka_unit_test(the_name_in_other_forms),
		cmocka_unit_test(without_case_pam_hears_the_systems_name),
		cmocka_unit_test(an_unknown_name_is_asked_as_typed),
		cmocka_unit_test(wrong_password),
		cmocka_unit_test(empty_password),
		cmocka_unit_test(unknown_user),
		cmocka_unit_test(no_account),
		cmocka_unit_test(root_is_refused),
		cmocka_unit_test(anothers_process),
		cmocka_unit_test(account_not_allowed),
		cmocka_unit_test(pam_changes_the_user),
		cmocka_unit_test(pam_changes_the_user_and_refuses),
		cmocka_unit_test(pam_forgets_the_user),
		cmocka_unit_test(module_is_missing),
		cmocka_unit_test(pam_is_out_of_order),
		cmocka_unit_test(every_answer_of_pam),
		cmocka_unit_test(everything_is_asked),
		cmocka_unit_test(visible_prompt_gets_the_user),
		cmocka_unit_test(the_client_and_tty_are_told),
		cmocka_unit_test(account_without_password),
		cmocka_unit_test(privileges_are_dropped),
		cmocka_unit_test(uid_0_is_no_drop),
		cmocka_unit_test(who_cannot_drop_goes_no_further),
		cmocka_unit_test(nothing_to_drop),
		cmocka_unit_test(confined_after_the_drop),
		cmocka_unit_test(confined_without_a_drop),
		cmocka_unit_test(what_cannot_be_had_is_told),
		cmocka_unit_test(the_spool_gives_its_gid),
		cmocka_unit_test(the_spool_behind_a_link),
	};

	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(120);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
