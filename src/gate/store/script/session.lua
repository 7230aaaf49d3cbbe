-- One exchange between a gateway and the store, part 1 of 3: the call itself, the store's identity and the gateways.
--
-- KEYS  1: the group's hash. 2: who is there (epoch -> until when). 3: how limits' windows are told apart. 4: the
--       group's hash of version 1. Then for each window its hash and its log.
-- ARGV  see `script_call.rs`, which writes them in the order in which they are read here.
--
-- All times are whole microseconds of this server's own clock. A slot is busy from its grant on; it is free again a span
-- after the last moment at which its request can have been sent. Nothing here depends on any gateway's clock but on
-- durations that it has measured.
--
-- The three parts are one script: `store_conn.rs` puts them together, and a later part uses the locals of an earlier one.

local call = redis.call
local cursor = 0
local function word()
  cursor = cursor + 1
  return ARGV[cursor]
end
local function number()
  return tonumber(word())
end
-- Lua's own conversion keeps 14 digits, a microsecond has 16.
local function whole(value)
  return string.format('%.0f', value)
end

local OK, LAPSED, OTHER_STORE, TOO_MANY, OTHER_VERSION = 0, 1, 2, 3, 4
-- What gateways of one group must have in common to understand what they find here: changed with any format.
local VERSION = '2'
-- How long after a look at what depends on other gateways the next makes sense.
local UNKNOWN_RETRY, FLIGHT_RETRY, SOONEST_RETRY = 20000, 5000, 1000
-- How much of a log is read at one time.
local CHUNK = 64
-- How far from its end a log is put in order.
local TAIL = 128
-- Stands for any number of requests under way.
local UNCAPPED = 1000000000000

-- Who calls ---------------------------------------------------------------------------------------------------------

local given = word()              -- the time, in tests; empty in earnest
local id = word()                 -- which store this is, as the gateway knows it
local process, epoch = word(), word()
local verb = word()               -- hello, tell, bye
local suspect_epoch = number()    -- the birth that a gateway has reason to doubt, or -1
local trusts_empty = number() == 1
local presence, horizon_most, lease = number(), number(), number()
local horizon_own = number()      -- how far ahead this gateway takes slots: further, if it is far away
local name, gateways, share_for = word(), number(), number()
local group, present, keyings, group_v1 = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

local now
if given ~= '' then
  now = tonumber(given)
else
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
end

local function hash(key)
  local raw, fields = call('HGETALL', key), {}
  for i = 1, #raw, 2 do
    fields[raw[i]] = raw[i + 1]
  end
  return fields
end

local meta = hash(group)
local born
-- Version 1 has its version under a key of its own, and looks for that of others only there.
local is_other = meta.id and meta.v ~= VERSION
  or verb == 'hello' and (call('HGET', group_v1, 'v') or VERSION) ~= VERSION
if is_other then
  -- Gateways of another version count here in another way, until the last of them is gone.
  if call('ZCOUNT', present, now, '+inf') > 0 then return { OTHER_VERSION } end
  if verb ~= 'hello' then return { LAPSED } end
  born = now
elseif not meta.id then
  if verb ~= 'hello' then return { LAPSED } end
  born = trusts_empty and 0 or now
elseif meta.id ~= id then
  if verb ~= 'hello' then return { OTHER_STORE } end
  born = now
elseif suspect_epoch >= 0 and tonumber(meta.born) == suspect_epoch then
  born = now
end
if born then
  -- What this store knows is not all: it is empty, behind, or its clock was set.
  call('DEL', group, present, keyings)
  call('HSET', group, 'id', id, 'v', VERSION, 'born', born, 'last', now)
  call('HSET', group_v1, 'id', id, 'v', VERSION)
  meta = {}
  if verb ~= 'hello' then return { LAPSED } end
else
  born = tonumber(meta.born)
  now = math.max(now, tonumber(meta.last))
  call('HSET', group, 'last', now)
end

-- The number of a name of this process's; nil if it is another's.
local function number_of(name)
  if name:sub(1, #process + 1) == process .. '.' then return tonumber(name:sub(#process + 2)) end
end
local own_number = number_of(epoch)

if verb == 'hello' then
  call('ZREMRANGEBYSCORE', present, '-inf', now - 86400000000)
else
  local till = call('ZSCORE', present, epoch)
  if not till or tonumber(till) < now then return { LAPSED } end
  for _, other in ipairs(call('ZRANGEBYSCORE', present, now, '+inf')) do
    -- A call that came late, from before the gateway took another name.
    local later = number_of(other)
    if later and later > own_number then return { LAPSED } end
  end
end

-- Gateways that may go on with their share when they are cut off ------------------------------------------------------

local SIGNED_OFF, SILENT = 0, 1
-- name -> { till, since, lasts, parts }. `till` may be SIGNED_OFF, or SILENT: it has not spoken yet. The last two are what
-- it says itself: for how long it goes on, with which part of a limit.
local named = {}
for field, value in pairs(meta) do
  if field:sub(1, 2) == 'g:' then
    local till, since, lasts, parts = value:match('^(%d+):(%d+):(%d+):(%d+)$')
    named[field:sub(3)] =
      { till = tonumber(till), since = tonumber(since), lasts = tonumber(lasts), parts = tonumber(parts) }
  end
end
if gateways > 0 then
  local mine = named[name]
  if not mine then
    local known = 0
    for _ in pairs(named) do known = known + 1 end
    if known >= gateways then return { TOO_MANY } end
    mine = { till = SILENT, since = 0 }
    named[name] = mine
  elseif verb ~= 'hello' and mine.till == SILENT then
    mine.since = born > 0 and now or 0
  elseif verb ~= 'hello' and mine.till ~= SIGNED_OFF and mine.till < now then
    mine.since = now
  elseif mine.till == SIGNED_OFF then
    mine.since = 0
  end
  -- Whether a gateway has heard that it was welcome is known when it speaks again; until then it may go on by itself, as
  -- it said when it spoke last.
  if verb ~= 'hello' or mine.till == SILENT then mine.lasts, mine.parts = share_for, gateways end
  if verb ~= 'hello' then mine.till = verb == 'bye' and SIGNED_OFF or now + presence end
  call('HSET', group, 'g:' .. name,
    whole(mine.till) .. ':' .. whole(mine.since) .. ':' .. whole(mine.lasts) .. ':' .. whole(mine.parts))
end

-- What is known of those that have not spoken yet: how many there are, for how long they go on, with which part at most.
local unknown, longest, fewest = gateways, share_for, gateways > 0 and gateways or math.huge
local others_differ = false
for whose, one in pairs(named) do
  unknown, longest, fewest = math.max(unknown, one.parts), math.max(longest, one.lasts), math.min(fewest, one.parts)
  local counts = one.till == SILENT or one.till > SILENT and now < one.till + one.lasts + lease
  if whose ~= name and counts and (one.lasts ~= share_for or one.parts ~= gateways) then others_differ = true end
end
for _, one in pairs(named) do
  if one.till ~= SILENT then unknown = unknown - 1 end
end

-- How many of `all` are left alone for gateways that may be sending without being seen here, or were until less than a
-- span ago.
local function withheld(all, span)
  local left = 0
  for _, one in pairs(named) do
    local unseen
    if one.till > SILENT and one.till < now then
      unseen = now < one.till + one.lasts + lease + span
    else
      unseen = one.till > SILENT and one.since > 0 and now < one.since + span
    end
    if unseen then left = left + math.floor(all / one.parts) end
  end
  if unknown > 0 and born > 0 and now < born + longest + lease + span then
    left = left + unknown * math.floor(all / fewest)
  end
  return left
end

if verb == 'bye' then
  call('ZADD', present, now - 1, epoch)
else
  call('ZADD', present, now + presence, epoch)
end
local alive = {}
for _, other in ipairs(call('ZRANGEBYSCORE', present, now, '+inf')) do
  alive[other] = true
end
