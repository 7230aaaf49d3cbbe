# Calls URLs with Ruby's Net::HTTP and open-uri, knowing nothing of any gateway; prints a status each.
#
# usage: ruby unchanged.rb URL...

require "net/http"
require "open-uri"

ARGV.each do |url|
  puts Net::HTTP.get_response(URI(url)).code
  begin
    puts URI(url).open.status.first
  rescue OpenURI::HTTPError => error
    puts error.io.status.first
  end
end
