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
 * A PAM module for auth_test.c.  With the user's name as its argument it asks
 * all that a module may ask, in one go, and succeeds if the answers are what
 * they should be: nothing to messages, the user's name to a visible prompt, the
 * password to an invisible one, and a failure as a whole to anything else, and
 * to no messages or more than there may be.  Without an argument its result
 * is the number that the password is.  Asked whether the account is allowed, it
 * forgets the user.
 */

#include <security/pam_modules.h>

#include <stdlib.h>
#include <string.h>

static int
ask(const struct pam_conv *conv, int count, const int *styles,
    const char *const *answers)
{
	struct pam_message messages[4];
	const struct pam_message *pointers[4];
	struct pam_response *responses = NULL;
	int i, error;

	for (i = 0; i < count; i++) {
		messages[i].msg_style = styles[i];
		messages[i].msg = "?";
		pointers[i] = &messages[i];
	}
	error = conv->conv(count, pointers, &responses, conv->appdata_ptr);
	for (i = 0; error == PAM_SUCCESS && i < count; i++) {
		if (strcmp(responses[i].resp, answers[i]) != 0)
			error = PAM_AUTH_ERR;
		free(responses[i].resp);
	}
	if (error == PAM_SUCCESS)
		free(responses);
	return error;
}

/* As many messages, which need no answer. */
static int
tell(const struct pam_conv *conv, int count)
{
	const struct pam_message message = { PAM_TEXT_INFO, "?" };
	const struct pam_message *pointers[PAM_MAX_NUM_MSG + 1];
	struct pam_response *responses = NULL;
	int i, error;

	for (i = 0; i < count; i++)
		pointers[i] = &message;
	error = conv->conv(count, pointers, &responses, conv->appdata_ptr);
	for (i = 0; error == PAM_SUCCESS && i < count; i++)
		free(responses[i].resp);
	if (error == PAM_SUCCESS)
		free(responses);
	return error;
}

/* The number that the password is. */
static int
told(const struct pam_conv *conv)
{
	const struct pam_message message = { PAM_PROMPT_ECHO_OFF, "?" };
	const struct pam_message *pointer = &message;
	struct pam_response *response = NULL;
	int number;

	if (conv->conv(1, &pointer, &response, conv->appdata_ptr) !=
	    PAM_SUCCESS)
		return PAM_CONV_ERR;
	number = atoi(response->resp);
	free(response->resp);
	free(response);
	return number;
}

int
pam_sm_authenticate(pam_handle_t *pam, int flags, int argc, const char **argv)
{
	static const int styles[] = { PAM_TEXT_INFO, PAM_PROMPT_ECHO_OFF,
	    PAM_ERROR_MSG, PAM_PROMPT_ECHO_ON };
	static const int odd[] = { PAM_PROMPT_ECHO_OFF, PAM_BINARY_PROMPT };
	const char *answers[] = { "", "secret", "", NULL };
	const void *conv;

	(void)flags;
	if (pam_get_item(pam, PAM_CONV, &conv) != PAM_SUCCESS)
		return PAM_SERVICE_ERR;
	if (argc == 0)
		return told(conv);
	answers[3] = argv[0];
	if (ask(conv, 4, styles, answers) != PAM_SUCCESS ||
	    ask(conv, 2, odd, answers) != PAM_CONV_ERR ||
	    tell(conv, 0) != PAM_CONV_ERR ||
	    tell(conv, 1) != PAM_SUCCESS ||
	    tell(conv, PAM_MAX_NUM_MSG) != PAM_SUCCESS ||
	    tell(conv, PAM_MAX_NUM_MSG + 1) != PAM_CONV_ERR)
		return PAM_AUTH_ERR;
	return PAM_SUCCESS;
}

int
pam_sm_setcred(pam_handle_t *pam, int flags, int argc, const char **argv)
{
	(void)pam, (void)flags, (void)argc, (void)argv;
	return PAM_SUCCESS;
}

int
pam_sm_acct_mgmt(pam_handle_t *pam, int flags, int argc, const char **argv)
{
	(void)flags, (void)argc, (void)argv;
	return pam_set_item(pam, PAM_USER, NULL);
}
