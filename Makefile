# GNU and BSD make.  CC, CPPFLAGS, CFLAGS, LDFLAGS, PREFIX and DESTDIR are yours,
# on make's command line; yours come last, and so count.
PREFIX	= /usr/local
CC	= cc
CFLAGS	= -O2 -g
PYTHON	= /usr/bin/python3

WARN	= -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
	  -Wconversion -Wformat=2
HARDEN	= -fPIE -fstack-protector-strong -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
# The same program from whichever folder it is built in.
NOWHERE	= -ffile-prefix-map="$$PWD"=.
ALL_CFLAGS = -std=gnu11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 \
	  $(HARDEN) $(WARN) $(NOWHERE) $(CPPFLAGS) $(CFLAGS)
ALL_LDFLAGS = -pie -Wl,-z,relro -Wl,-z,now $(LDFLAGS)
VERSION	= sed -n 's/^.define POP3D_VERSION.*"\(.*\)"/\1/p' pop3d.h
OBJS	= pop3d.o auth.o mailbox.o

SBIN	= $(DESTDIR)$(PREFIX)/sbin
MAN8	= $(DESTDIR)$(PREFIX)/share/man/man8
DOC	= $(DESTDIR)$(PREFIX)/share/doc/pop3d
PAM	= $(DESTDIR)/etc/pam.d

all: pop3d

pop3d: $(OBJS)
	$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) -o $@ $(OBJS) -lpam -lmd -lbsd

$(OBJS): pop3d.h

.c.o:
	$(CC) $(ALL_CFLAGS) -c $<

# What is longer than a line is a script in tests.
demo: pop3d
	sh tests/deploy/demo.sh ./pop3d

check model mutate crash sweep storm soak abuse powercut nfs bench fuzz \
    coverage valgrind portability: pop3d
	cd tests && $(MAKE) CC="$(CC)" CPPFLAGS="$(CPPFLAGS)" \
	    CFLAGS="$(CFLAGS)" LDFLAGS="$(LDFLAGS)" PYTHON="$(PYTHON)" $@

lint:
	sh tests/tools/lint.sh

# What is installed names the PREFIX, where the sources say /usr/local.
install: pop3d
	install -d $(SBIN) $(MAN8) $(DOC) $(PAM)
	install -m 755 pop3d $(SBIN)/pop3d
	install -m 644 pop3d.8 $(MAN8)/pop3d.8
	install -m 644 README NEWS LICENSE \
	    `find etc/* -prune -type f ! -perm -100` $(DOC)
	install -m 755 `find etc/* -prune -type f -perm -100` $(DOC)
	sed -i 's,/usr/local,$(PREFIX),g' $(MAN8)/pop3d.8 $(DOC)/*
	test -e $(PAM)/pop3d || install -m 644 etc/pop3d.pam $(PAM)/pop3d
	@echo "Examples for inetd, systemd and TLS are in" \
	    "$(PREFIX)/share/doc/pop3d"

# The PAM file may hold the administrator's own rules: it goes if it is ours.
uninstall:
	rm -f $(SBIN)/pop3d $(MAN8)/pop3d.8
	rm -rf $(DOC)
	! cmp -s etc/pop3d.pam $(PAM)/pop3d || rm $(PAM)/pop3d

dist:
	v=`$(VERSION)`; \
	    git archive --prefix=pop3d-$$v/ -o pop3d-$$v.tar.gz HEAD

# A Debian package, in build-deb/; its date is that of pop3d.h.
deb:
	rm -rf build-deb
	mkdir -p build-deb/pop3d
	cp -pR Makefile README NEWS LICENSE pop3d.8 *.[ch] etc build-deb/pop3d
	cp -pR etc/debian build-deb/pop3d/debian
	cd build-deb/pop3d && sed -i -e "s/VERSION/`$(VERSION)`/" \
	    -e "s/DATE/`date -uR -r pop3d.h`/" debian/changelog && \
	    dpkg-buildpackage -us -uc -b -nc

# As root: for RELEASES, "bookworm trixie", or this host's own.
debcheck:
	$(PYTHON) tests/deploy/package.py $(RELEASES)

distcheck:
	MAKE="$(MAKE)" PYTHON="$(PYTHON)" sh tests/deploy/distcheck.sh

clean:
	rm -f pop3d $(OBJS) pop3d-*.tar.gz
	rm -rf build-deb
	cd tests && $(MAKE) clean

.PHONY: all demo check model mutate crash sweep storm abuse soak powercut nfs \
	bench fuzz coverage valgrind portability lint install uninstall dist \
	deb debcheck distcheck clean
