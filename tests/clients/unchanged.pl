# Calls an origin with Perl's LWP and HTTP::Tiny, knowing nothing of any gateway.
#
# usage: perl unchanged.pl BASE COUNT

use strict;
use warnings;
use HTTP::Tiny;
use LWP::UserAgent;

my ($base, $count) = @ARGV;
for my $n (0 .. $count - 1) {
    my $answer = LWP::UserAgent->new->get("$base/lwp/$n");
    die $answer->status_line . $answer->content unless $answer->is_success && $answer->content eq "/lwp/$n";
    my $tiny = HTTP::Tiny->new->get("$base/tiny/$n");
    die $tiny->{status} . $tiny->{content} unless $tiny->{success} && $tiny->{content} eq "/tiny/$n";
}
print "well\n";
