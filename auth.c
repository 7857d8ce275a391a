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
 * Authentication through PAM, giving up being root, confinement.  Of the bytes
 * of a stranger only a user name and a password come here, and go to PAM.
 */

#include <sys/resource.h>

#include <bsd/stdlib.h>
#include <bsd/string.h>
#include <security/pam_appl.h>

#include <crypt.h>
#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <grp.h>
#include <malloc.h>
#include <pwd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <linux/landlock.h>
#endif

#include "pop3d.h"

#define NAME_SIZE	512	/* of a user, with its end */
#define HASHES		2	/* pam_unix makes for a password (1.5, 1.7) */

struct credentials {
	const char	*user;
	const char	*pass;
	bool		 asked;		/* for the password */
};

static const char *
answer(int style, struct credentials *cred)
{
	switch (style) {
	case PAM_PROMPT_ECHO_OFF:
		cred->asked = true;
		return cred->pass;
	case PAM_PROMPT_ECHO_ON:
		return cred->user;
	case PAM_TEXT_INFO:
	case PAM_ERROR_MSG:
		return "";
	default:
		return NULL;
	}
}

static void
free_answers(struct pam_response *res, int count)
{
	while (count-- > 0)
		freezero(res[count].resp, strlen(res[count].resp));
	free(res);
}

/* What PAM's modules ask: they get the password and the user, no more. */
static int
conversation(int count, const struct pam_message **messages,
    struct pam_response **responses, void *data)
{
	struct pam_response *res;
	const char *text;
	int i;

	if (count <= 0 || count > PAM_MAX_NUM_MSG)
		return PAM_CONV_ERR;
	if ((res = calloc((size_t)count, sizeof(*res))) == NULL)
		return PAM_BUF_ERR;
	for (i = 0; i < count; i++) {
		text = answer(messages[i]->msg_style, data);
		if (text == NULL ||
		    (res[i].resp = strdup(text)) == NULL) {
			free_answers(res, i);
			return text == NULL ? PAM_CONV_ERR : PAM_BUF_ERR;
		}
	}
	*responses = res;
	return PAM_SUCCESS;
}

/*
 * The delay of a refusal is the caller's.  PAM's would come on top, but only
 * when a password is wrong, and so tell that root's was right.
 */
static void
no_delay(int error, unsigned int microseconds, void *data)
{
	(void)error;
	(void)microseconds;
	(void)data;
}

static int
set_items(pam_handle_t *pam, const char *peer)
{
	int error;

	error = pam_set_item(pam, PAM_FAIL_DELAY, (const void *)no_delay);
	if (error == PAM_SUCCESS)
		error = pam_set_item(pam, PAM_TTY, "pop3");
	if (error == PAM_SUCCESS && peer != NULL)
		error = pam_set_item(pam, PAM_RHOST, peer);
	return error;
}

/* PAM's many answers are three to us. */
static enum auth
verdict(int error)
{
	switch (error) {
	case PAM_SUCCESS:
		return AUTH_OK;
	case PAM_OPEN_ERR:
	case PAM_SYMBOL_ERR:
	case PAM_SERVICE_ERR:
	case PAM_SYSTEM_ERR:
	case PAM_BUF_ERR:
	case PAM_AUTHINFO_UNAVAIL:
	case PAM_ABORT:
	case PAM_MODULE_UNKNOWN:
	case PAM_CONV_ERR:
		return AUTH_TROUBLE;
	default:
		return AUTH_REFUSED;
	}
}

static int
same_user(pam_handle_t *pam, const char *user)
{
	const void *now = NULL;

	return pam_get_item(pam, PAM_USER, &now) == PAM_SUCCESS &&
	    now != NULL && strcmp(now, user) == 0;
}

/* The whole life of a PAM handle. */
static enum auth
ask_pam(struct credentials *cred, const char *peer, const char **why)
{
	struct pam_conv conv = { conversation, cred };
	pam_handle_t *pam = NULL;
	enum auth result;
	int error;

	*why = "pam";
	error = pam_start("pop3d", cred->user, &conv, &pam);
	if (error != PAM_SUCCESS) {	/* then there is no handle */
		syslog(LOG_ERR, "PAM: %s", pam_strerror(NULL, error));
		return AUTH_TROUBLE;
	}
	if ((error = set_items(pam, peer)) == PAM_SUCCESS)
		error = pam_authenticate(pam,
		    PAM_SILENT | PAM_DISALLOW_NULL_AUTHTOK);
	result = verdict(error);
	if (result == AUTH_REFUSED)
		*why = "credentials";
	if (result == AUTH_OK) {
		error = pam_acct_mgmt(pam,
		    PAM_SILENT | PAM_DISALLOW_NULL_AUTHTOK);
		result = verdict(error);
		if (result == AUTH_REFUSED) {
			result = AUTH_FORBIDDEN;
			*why = "account";
		}
	}
	if (result == AUTH_OK && !same_user(pam, cred->user)) {
		result = AUTH_REFUSED;
		*why = "user-changed";
	}
	if (result == AUTH_TROUBLE)
		syslog(LOG_ERR, "PAM: %s", pam_strerror(pam, error));
	pam_end(pam, error);
	return result;
}

/* If so, name becomes what the system calls it: some take any case of it. */
static bool
is_account(char *name)
{
	const struct passwd *pw = getpwnam(name);

	if (pw != NULL)
		strlcpy(name, pw->pw_name, NAME_SIZE);
	return pw != NULL;
}

/*
 * People type their whole address, and telephones a capital.  What no account
 * has in any of these forms is asked of PAM as it was typed, like any other.
 */
static void
account_name(const char *typed, char *name)
{
	char *p;

	strlcpy(name, typed, NAME_SIZE);
	if (is_account(name))
		return;
	name[strcspn(name, "@")] = '\0';
	if (is_account(name))
		return;
	for (p = name; *p != '\0'; p++)
		*p = (char)tolower((unsigned char)*p);
	if (!is_account(name))
		strlcpy(name, typed, NAME_SIZE);
}

/*
 * The time tells nothing of an account if every refusal costs hashes alike.
 * pam_unix makes them if it asked for the password of an account with a hash;
 * else they are made here, with the first hash that there is.  libcrypt.so.1 is
 * what pam_unix has loaded.  The file is read in memory of our own, and to its
 * end whatever the name is.
 */
static void
hash_as_pam(const struct credentials *cred)
{
	char *(*hasher)(const char *, const char *, struct crypt_data *);
	struct crypt_data data = { 0 };
	char buf[BUFSIZ], line[1024], hash[512] = "", *p;
	bool made = false;
	FILE *f;
	int i;

	if ((f = fopen("/etc/shadow", "re")) == NULL)
		return;
	setvbuf(f, buf, _IOFBF, sizeof(buf));
	while (fgets(line, sizeof(line), f) != NULL) {
		p = line;
		if (strcmp(strsep(&p, ":"), cred->user) == 0 && p != NULL)
			made = cred->asked && *p == '$';
		if (hash[0] == '\0' && p != NULL && *p == '$')
			strlcpy(hash, strsep(&p, ":"), sizeof(hash));
	}
	fclose(f);
	*(void **)&hasher = dlsym(dlopen("libcrypt.so.1", RTLD_NOW), "crypt_r");
	for (i = 0; !made && *hash != '\0' && hasher != NULL && i < HASHES; i++)
		hasher(cred->pass, hash, &data);
	explicit_bzero(&data, sizeof(data));
	explicit_bzero(buf, sizeof(buf));
	explicit_bzero(line, sizeof(line));
	explicit_bzero(hash, sizeof(hash));
}

enum auth
auth_user(const char *user, const char *pass, const char *peer,
    struct passwd **pw, const char **why)
{
	char name[NAME_SIZE];
	struct credentials cred = { name, pass, false };
	enum auth result;
	bool root;

	account_name(user, name);
	result = ask_pam(&cred, peer, why);
	if (result == AUTH_REFUSED)
		hash_as_pam(&cred);
	*pw = getpwnam(name);
	root = *pw != NULL && (*pw)->pw_uid == 0;
	/* Nothing may tell that a password is root's. */
	if (result == AUTH_OK || (root && result != AUTH_REFUSED)) {
		*why = *pw == NULL || strchr(name, '/') != NULL ?
		    "no-account" : root ? "root" :
		    getuid() != 0 && (*pw)->pw_uid != getuid() ?
		    "other-user" : NULL;
		if (*why != NULL)
			result = AUTH_REFUSED;
	}
	return result;
}

gid_t
spool_gid(const char *path, gid_t own)
{
	char dir[PATH_MAX] = "/";
	struct stat st;
	const char *p;

	/* Whoever could rename a part of the path could choose the group. */
	for (p = strchr(path + 1, '/'); p != NULL; p = strchr(p + 1, '/'))
		if (snprintf(dir, sizeof(dir), "%.*s", (int)(p - path),
		    path) >= (int)sizeof(dir) ||
		    lstat(dir, &st) == -1 || st.st_uid != 0)
			return own;
	if (stat(dir, &st) == -1 || !S_ISDIR(st.st_mode) || st.st_uid != 0 ||
	    st.st_gid == 0 || (st.st_mode & S_IWGRP) == 0 ||
	    (st.st_mode & S_IWOTH) != 0)
		return own;
	return st.st_gid;
}

void
drop_privileges(const struct passwd *pw, gid_t spool)
{
	uid_t uid = pw->pw_uid, ruid, euid, suid;
	gid_t gid = pw->pw_gid, rgid, egid, sgid;

	if (geteuid() == 0) {
		if (initgroups(pw->pw_name, gid) == -1 ||
		    setresgid(gid, gid, spool) == -1 ||
		    setresuid(uid, uid, uid) == -1) {
			syslog(LOG_CRIT, "cannot become uid %lu: %m",
			    (unsigned long)uid);
			exit(71);
		}
	} else
		spool = gid = getgid();
	if (setuid(0) != -1 || seteuid(0) != -1 ||
	    getresuid(&ruid, &euid, &suid) == -1 ||
	    getresgid(&rgid, &egid, &sgid) == -1 ||
	    ruid != uid || euid != uid || suid != uid ||
	    rgid != gid || egid != gid || sgid != spool) {
		syslog(LOG_CRIT, "did not become uid %lu",
		    (unsigned long)uid);
		exit(71);
	}
}

#ifdef __linux__

void
protect_memory(void)
{
	struct rlimit none = { 0, 0 };

	setrlimit(RLIMIT_CORE, &none);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
#ifdef M_PERTURB
	/* What is freed is overwritten: others' hashes, which PAM reads. */
	mallopt(M_PERTURB, 0xff);
#endif
}

/* Newer than the headers of Debian 12, with the ABI that brought them. */
enum {
	FS_TRUNCATE	= 1 << 14,	/* 3 */
	NET_BIND_TCP	= 1 << 0,	/* 4 */
	NET_CONNECT_TCP	= 1 << 1,	/* 4 */
	FS_IOCTL_DEV	= 1 << 15,	/* 5 */
	SCOPE_ABSTRACT_UNIX_SOCKET = 1 << 0,	/* 6 */
	SCOPE_SIGNAL	= 1 << 1	/* 6 */
};

enum { FS, NET, SCOPED };	/* struct landlock_ruleset_attr, ABI 6 */

/*
 * What is denied: a part of Landlock each, and each is taken by itself.  Above
 * all no file is opened by its name: with the spool's gid a session that was
 * taken over could read everybody's mail.
 */
static const struct part {
	int		 abi;
	const char	*name;
	uint64_t	 rights[SCOPED + 1];
} parts[] = {
	{ 1, "Landlock", { [FS] = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1 } },
	{ 3, "no truncating", { [FS] = FS_TRUNCATE } },
	{ 4, "no TCP", { [NET] = NET_BIND_TCP | NET_CONNECT_TCP } },
	{ 5, "no devices", { [FS] = FS_IOCTL_DEV } },
	{ 6, "no signals", { [SCOPED] = SCOPE_SIGNAL } },
	{ 6, "no abstract sockets", { [SCOPED] = SCOPE_ABSTRACT_UNIX_SOCKET } },
};

/* But in dir names are made and removed, which the dotlock needs. */
static int
deny(const struct part *part, int dir)
{
	struct landlock_path_beneath_attr in_dir = {
		.allowed_access = part->rights[FS] &
		    (LANDLOCK_ACCESS_FS_MAKE_REG |
		    LANDLOCK_ACCESS_FS_REMOVE_FILE),
		.parent_fd = dir
	};
	int rules, result = 0, error;

	/* An older kernel takes a longer struct if the rest of it is zeros. */
	rules = (int)syscall(SYS_landlock_create_ruleset, part->rights,
	    sizeof(part->rights), 0);
	if (rules == -1)
		return -1;
	if (dir != -1 && in_dir.allowed_access != 0)
		result = (int)syscall(SYS_landlock_add_rule, rules,
		    LANDLOCK_RULE_PATH_BENEATH, &in_dir, 0);
	if (result == 0)
		result = (int)syscall(SYS_landlock_restrict_self, rules, 0);
	error = errno;
	close(rules);
	errno = error;
	return result;
}

static char missing[400];

static void
lack(const char *what)
{
	size_t n = strlen(missing);

	snprintf(missing + n, sizeof(missing) - n, "%s%s: %s",
	    n > 0 ? ", " : "", what, strerror(errno));
}

const char *
confine(int dir)
{
	struct rlimit none = { 0, 0 };
	long abi;
	size_t i;

	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == -1)
		lack("undumpable");
	if (setrlimit(RLIMIT_NPROC, &none) == -1)
		lack("no processes");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == -1)
		lack("no new privileges");
	abi = syscall(SYS_landlock_create_ruleset, NULL, 0,
	    LANDLOCK_CREATE_RULESET_VERSION);
	if (abi == -1)
		lack("Landlock");
	for (i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		if (parts[i].abi <= abi && deny(&parts[i], dir) == -1)
			lack(parts[i].name);
	return missing[0] != '\0' ? missing : NULL;
}

#else

void
protect_memory(void)
{
	struct rlimit none = { 0, 0 };

	setrlimit(RLIMIT_CORE, &none);
}

const char *
confine(int dir)
{
	(void)dir;
	return "nothing of it is known here";
}

#endif
