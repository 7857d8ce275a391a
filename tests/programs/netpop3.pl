#!/usr/bin/perl
# Fetch mail with Net::POP3 into the files of a folder.
# usage: netpop3.pl port user password folder keep|delete
# keep: unique-ids that were seen are kept in the file "seen".
use strict;
use warnings;
use Net::POP3;

my ($port, $user, $password, $folder, $mode) = @ARGV;
my %seen;
if (open my $fh, '<', 'seen') {
	%seen = map { chomp; $_ => 1 } <$fh>;
}
my $pop = Net::POP3->new('127.0.0.1', Port => $port) or die "connect: $@";
defined $pop->login($user, $password) or die 'login: ', $pop->message;
my $ids = $pop->uidl or die 'UIDL: ', $pop->message;
for my $n (sort { $a <=> $b } keys %$ids) {
	next if $seen{$ids->{$n}}++;
	open my $fh, '>', "$folder/$n" or die "$folder/$n: $!";
	$pop->get($n, $fh) or die "RETR $n: ", $pop->message;
	close $fh or die "$folder/$n: $!";
	$mode eq 'keep' or $pop->delete($n) or die "DELE $n: ", $pop->message;
}
$pop->quit or die 'QUIT: ', $pop->message;
exit 0 if $mode ne 'keep';
open my $fh, '>', 'seen' or die "seen: $!";
print $fh "$_\n" for sort keys %seen;
close $fh or die "seen: $!";
