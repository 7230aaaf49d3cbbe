-- Script of the store, part 1 of 3: arguments of the call, identity of the store, sessions of the gateways.
--
-- One call reports what a gateway did since its last call, and grants slots.
--
-- KEYS  1: hash of the group. 2: sorted set of sessions (session -> present until). 3: hash of the `key` of each limit
--       (limit -> since, session, key). 4: hash of the group in version 1. Then two for each window: its hash and its log.
-- ARGV  see `script_call.rs`, which writes them in the order in which they are read here.
--
-- All times are whole microseconds of this server's clock. A slot is busy from its grant until a span after the last moment
-- at which its request can have been sent. No time of a gateway's clock is used, only durations that it has measured.
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
-- A number as a whole decimal. Lua's own conversion keeps 14 digits, a time in microseconds has 16.
local function whole(value)
  return string.format('%.0f', value)
end

local OK, LAPSED, OTHER_STORE, TOO_MANY, OTHER_VERSION = 0, 1, 2, 3, 4
-- Version of the data format, the same for all gateways of a group. It changes with any format of a key or field.
local VERSION = '2'
-- Time until a gateway asks again when the next opening depends on reports of other gateways, in microseconds.
local UNKNOWN_RETRY, FLIGHT_RETRY, SOONEST_RETRY = 20000, 5000, 1000
-- Number of log entries read by one LRANGE.
local CHUNK = 64
-- Number of entries at the log's end among which late reports are sorted in.
local TAIL = 128
-- Wire value for no limit on the requests in flight.
local UNCAPPED = 1000000000000

-- Caller -------------------------------------------------------------------------------------------------------------

local test_clock = word()         -- replaces this server's clock in tests; else empty
local id = word()                 -- identity of this store at the time of the gateway's connect
local process, session = word(), word()
local command = word()            -- hello, sync or bye
local suspect_epoch = number()    -- start of an epoch that a gateway does not trust, or -1
local trusts_empty = number() == 1
local presence, horizon_most, lease = number(), number(), number()
local horizon_own = number()      -- time before the opening of a slot at which it may be granted to this gateway
local name, gateways, share_for = word(), number(), number()
local group, present, keyings, group_v1 = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

local now
if test_clock ~= '' then
  now = tonumber(test_clock)
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
local epoch_start
-- Version 1 keeps its version under a key of its own, and checks only that one.
local is_other_version = meta.id and meta.v ~= VERSION
  or command == 'hello' and (call('HGET', group_v1, 'v') or VERSION) ~= VERSION
if is_other_version then
  -- Gateways of another version use another format here. They keep the store until the last of them is gone.
  if call('ZCOUNT', present, now, '+inf') > 0 then return { OTHER_VERSION } end
  if command ~= 'hello' then return { LAPSED } end
  epoch_start = now
elseif not meta.id then
  if command ~= 'hello' then return { LAPSED } end
  epoch_start = trusts_empty and 0 or now
elseif meta.id ~= id then
  if command ~= 'hello' then return { OTHER_STORE } end
  epoch_start = now
elseif suspect_epoch >= 0 and tonumber(meta.born) == suspect_epoch then
  epoch_start = now
end
if epoch_start then
  -- A new epoch: the counts are incomplete, as the store is empty, lacks writes, or its clock jumped.
  call('DEL', group, present, keyings)
  call('HSET', group, 'id', id, 'v', VERSION, 'born', epoch_start, 'last', now)
  call('HSET', group_v1, 'id', id, 'v', VERSION)
  meta = {}
  if command ~= 'hello' then return { LAPSED } end
else
  epoch_start = tonumber(meta.born)
  now = math.max(now, tonumber(meta.last))
  call('HSET', group, 'last', now)
end

-- The number in a session name of this process; nil for another process.
local function number_of(other)
  if other:sub(1, #process + 1) == process .. '.' then return tonumber(other:sub(#process + 2)) end
end
local own_number = number_of(session)

if command == 'hello' then
  call('ZREMRANGEBYSCORE', present, '-inf', now - 86400000000)
else
  local till = call('ZSCORE', present, session)
  if not till or tonumber(till) < now then return { LAPSED } end
  for _, other in ipairs(call('ZRANGEBYSCORE', present, now, '+inf')) do
    -- A delayed call of an earlier session of this process.
    local later = number_of(other)
    if later and later > own_number then return { LAPSED } end
  end
end

-- Fallback fractions of unreachable gateways ---------------------------------------------------------------------------

local SIGNED_OFF, SILENT = 0, 1
-- name -> { till, since, lasts, parts }: present until `till` (SIGNED_OFF; SILENT before its first call after a hello),
-- without a gap since `since`; uses its fraction, one of `parts`, for `lasts`. The last two are the gateway's own settings.
local named = {}
for field, value in pairs(meta) do
  if field:sub(1, 2) == 'g:' then
    local till, since, lasts, parts = value:match('^(%d+):(%d+):(%d+):(%d+)$')
    named[field:sub(3)] =
      { till = tonumber(till), since = tonumber(since), lasts = tonumber(lasts), parts = tonumber(parts) }
  end
end
if gateways > 0 then
  local own = named[name]
  if not own then
    local known = 0
    for _ in pairs(named) do known = known + 1 end
    if known >= gateways then return { TOO_MANY } end
    own = { till = SILENT, since = 0 }
    named[name] = own
  elseif command ~= 'hello' and own.till == SILENT then
    own.since = epoch_start > 0 and now or 0
  elseif command ~= 'hello' and own.till ~= SIGNED_OFF and own.till < now then
    own.since = now
  elseif own.till == SIGNED_OFF then
    own.since = 0
  end
  -- The reply to a hello may be lost, so the gateway's new settings apply from its next call on. Until then it may still use
  -- its fraction according to its former settings.
  if command ~= 'hello' or own.till == SILENT then own.lasts, own.parts = share_for, gateways end
  if command ~= 'hello' then own.till = command == 'bye' and SIGNED_OFF or now + presence end
  call('HSET', group, 'g:' .. name,
    whole(own.till) .. ':' .. whole(own.since) .. ':' .. whole(own.lasts) .. ':' .. whole(own.parts))
end

-- Gateways that have not called yet: their number, the longest use of a fraction, and the divisor of the largest fraction.
local unknown, longest, fewest = gateways, share_for, gateways > 0 and gateways or math.huge
local settings_mismatch = false
for owner, one in pairs(named) do
  unknown, longest, fewest = math.max(unknown, one.parts), math.max(longest, one.lasts), math.min(fewest, one.parts)
  local counts = one.till == SILENT or one.till > SILENT and now < one.till + one.lasts + lease
  if owner ~= name and counts and (one.lasts ~= share_for or one.parts ~= gateways) then settings_mismatch = true end
end
for _, one in pairs(named) do
  if one.till ~= SILENT then unknown = unknown - 1 end
end

-- Number of slots of `all` that are reserved for the fractions of gateways that may send without reports, or did less than a
-- span ago.
local function reserved(all, span)
  local total = 0
  for _, one in pairs(named) do
    local unseen
    if one.till > SILENT and one.till < now then
      unseen = now < one.till + one.lasts + lease + span
    else
      unseen = one.till > SILENT and one.since > 0 and now < one.since + span
    end
    if unseen then total = total + math.floor(all / one.parts) end
  end
  if unknown > 0 and epoch_start > 0 and now < epoch_start + longest + lease + span then
    total = total + unknown * math.floor(all / fewest)
  end
  return total
end

if command == 'bye' then
  call('ZADD', present, now - 1, session)
else
  call('ZADD', present, now + presence, session)
end
local alive = {}
for _, other in ipairs(call('ZRANGEBYSCORE', present, now, '+inf')) do
  alive[other] = true
end
