-- One exchange between a gateway and the store: what was sent is told, what is free is asked for.
--
-- KEYS  1: the group's hash. 2: who is there (epoch -> until when). Then for each window its hash and its log.
-- ARGV  see `message.rs`, which writes them in the order in which they are read here.
--
-- All times are whole microseconds of this server's own clock. A slot is busy from its grant on; it is free again a span
-- after the last moment at which its request can have been sent. Nothing here depends on any gateway's clock but on
-- durations that it has measured.

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

local OK, LAPSED, OTHER_STORE, TOO_MANY = 0, 1, 2, 3
-- How long after a look at what depends on other gateways the next makes sense.
local UNKNOWN_RETRY, FLIGHT_RETRY = 20000, 5000
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
local doubted = number()          -- the birth that a gateway has reason to doubt, or -1
local trusts_empty = number() == 1
local presence, horizon_most, lease = number(), number(), number()
local horizon_own = number()      -- how far ahead this gateway takes slots: further, if it is far away
local name, gateways, share_for = word(), number(), number()
local group, present = KEYS[1], KEYS[2]

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

local house = hash(group)
local born
if not house.id then
  if verb ~= 'hello' then return { LAPSED } end
  born = trusts_empty and 0 or now
elseif house.id ~= id then
  if verb ~= 'hello' then return { OTHER_STORE } end
  born = now
elseif doubted >= 0 and tonumber(house.born) == doubted then
  born = now
end
if born then
  -- What this store knows is not all: it is empty, behind, or its clock was set.
  call('DEL', group, present)
  call('HSET', group, 'id', id, 'born', born, 'last', now)
  house = {}
  if verb ~= 'hello' then return { LAPSED } end
else
  born = tonumber(house.born)
  now = math.max(now, tonumber(house.last))
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
local named = {}                  -- name -> { till, since }; till may be SIGNED_OFF, or SILENT: it has not spoken yet
for field, value in pairs(house) do
  if field:sub(1, 2) == 'g:' then
    local till, since = value:match('^(%d+):(%d+)$')
    named[field:sub(3)] = { till = tonumber(till), since = tonumber(since) }
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
  -- Whether a gateway has heard that it was welcome is known when it speaks again; until then it may go on by itself.
  if verb ~= 'hello' then mine.till = verb == 'bye' and SIGNED_OFF or now + presence end
  call('HSET', group, 'g:' .. name, whole(mine.till) .. ':' .. whole(mine.since))
end

-- How many gateways may be sending without being seen here, or were until less than a span ago.
local function unseen(span)
  if gateways == 0 then return 0 end
  local known, count = 0, 0
  for _, one in pairs(named) do
    if one.till ~= SILENT then known = known + 1 end
    if one.till > SILENT and one.till < now then
      if now < one.till + share_for + lease + span then count = count + 1 end
    elseif one.till > SILENT and one.since > 0 and now < one.since + span then
      count = count + 1
    end
  end
  if born > 0 and now < born + share_for + lease + span then
    count = count + math.max(0, gateways - known)
  end
  return count
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

-- Windows -------------------------------------------------------------------------------------------------------------

local function entry(text)
  local at, count = text:match('^(%d+):(%d+)$')
  return tonumber(at), tonumber(count)
end

-- The slots in a window's log, oldest first, read as far as they are needed.
local function log_at(window, index)
  while index > #window.entries and not window.all_read do
    local from = #window.entries
    local texts = call('LRANGE', window.log, from, from + CHUNK - 1)
    for _, text in ipairs(texts) do
      local at, count = entry(text)
      window.entries[#window.entries + 1] = { at = at, count = count }
    end
    window.all_read = #texts < CHUNK
  end
  return window.entries[index]
end

local function expire(window)
  if window.kind == 'fixed' then
    if window.settled > 0 and window.began + window.span <= now then
      window.settled, window.over = 0, window.began + window.span
    end
  elseif window.kind == 'sliding' or window.kind == 'smooth' then
    local gone = 0
    while true do
      local oldest = log_at(window, gone + 1)
      if not oldest or oldest.at + window.span > now then break end
      window.settled = window.settled - oldest.count
      gone = gone + 1
    end
    if gone > 0 then
      call('LTRIM', window.log, gone, -1)
      -- What was read is read again from the new head.
      window.entries, window.all_read = {}, false
    end
  end
end

-- `count` slots whose requests were sent at `bound` at the latest.
local function settle(window, bound, count)
  if window.kind == 'none' or count == 0 then return end
  if window.kind == 'calendar' then
    if bound >= window.period then window.settled = window.settled + count end
  elseif window.kind == 'fixed' then
    bound = math.max(bound, window.over)
    if window.settled > 0 and window.began + window.span <= bound then
      window.settled, window.over = 0, window.began + window.span
    end
    if window.settled == 0 then window.began = bound end
    window.settled = window.settled + count
  else
    if window.quantum > 1 then bound = math.ceil(bound / window.quantum) * window.quantum end
    window.settled = window.settled + count
    window.fresh_entries[#window.fresh_entries + 1] = { at = bound, count = count }
  end
end

-- Puts what has settled into its place in the log: a gateway may tell later of what it sent earlier than another. What is
-- older than all of the log's last `TAIL` entries counts as old as those.
local function write_log(window)
  local fresh = window.fresh_entries
  if #fresh == 0 then return end
  table.sort(fresh, function(one, other) return one.at < other.at end)
  local tail, from = {}, 1
  local last = call('LINDEX', window.log, -1)
  if last and entry(last) >= fresh[1].at then tail = call('LRANGE', window.log, -TAIL, -1) end
  local floor = #tail == TAIL and entry(tail[1]) or 0
  for index = #tail, 1, -1 do
    if entry(tail[index]) < math.max(floor, fresh[1].at) then
      from = index + 1
      break
    end
  end
  local merged, nxt = {}, 1
  local function put(at, count)
    local before = merged[#merged]
    if before and before.at == at then
      before.count = before.count + count
    else
      merged[#merged + 1] = { at = at, count = count }
    end
  end
  local function put_fresh_before(at)
    while fresh[nxt] and math.max(floor, fresh[nxt].at) < at do
      put(math.max(floor, fresh[nxt].at), fresh[nxt].count)
      nxt = nxt + 1
    end
  end
  for index = from, #tail do
    local at, count = entry(tail[index])
    put_fresh_before(at)
    put(at, count)
  end
  put_fresh_before(math.huge)
  local changed = #tail - from + 1
  if changed > 0 then call('LTRIM', window.log, 0, -1 - changed) end
  local texts = {}
  for index, each in ipairs(merged) do texts[index] = whole(each.at) .. ':' .. whole(each.count) end
  call('RPUSH', window.log, unpack(texts))
  window.entries, window.all_read, window.fresh_entries = {}, false, {}
end

local function field(window, of)
  return tonumber(window.fields[of]) or 0
end

-- The strictest of what the gateways that are there say of the limit.
local function agree(window)
  local own = whole(window.requests) .. ':' .. whole(window.span) .. ':' .. whole(window.in_flight) .. ':' .. window.told
  local known = window.fields.k
  for key, value in pairs(window.fields) do
    if key:sub(1, 2) == 'r:' and alive[key:sub(3)] and key:sub(3) ~= epoch and value ~= own then
      local requests, span, in_flight, kind = value:match('^(%d+):(%d+):(%d+):(%a+)$')
      -- As long as somebody counts in the old way it is counted so, and who knows another waits.
      if kind == known and kind ~= window.told then window.kind, window.shut = kind, true end
      window.requests = math.min(window.requests, tonumber(requests))
      window.span = math.max(window.span, tonumber(span))
      window.in_flight = math.min(window.in_flight, tonumber(in_flight))
      window.mixed = true
    end
  end
  window.fields['r:' .. epoch] = own
end

-- What gateways hold that are gone: it may have been sent until they were last seen, or a little later.
local function bury(window)
  local dead = {}
  for key in pairs(window.fields) do
    local what, whose = key:sub(1, 2), key:sub(3)
    local name = number_of(whose)
    local earlier = name and name < own_number
    if what:sub(2, 2) == ':' and whose ~= epoch and (not alive[whose] or earlier and window.fresh) then
      -- What this process held under an earlier name it tells again.
      local keep = false
      if what == 'u:' and not earlier then
        local seen = tonumber(call('ZSCORE', present, whose) or now - window.linger)
        -- Where slots open all at one moment it counts in which window they settled: they do when that is certain.
        keep = (window.kind == 'fixed' or window.kind == 'calendar') and now < seen + window.linger
        if not keep then dead[#dead + 1] = { seen = seen, held = field(window, key) } end
      end
      if not keep then
        window.gone[#window.gone + 1] = key
        window.fields[key] = nil
      end
    end
  end
  table.sort(dead, function(one, other) return one.seen < other.seen end)
  for _, each in ipairs(dead) do settle(window, each.seen + window.linger, each.held) end
end

local function open_window(index)
  local window = {
    key = KEYS[1 + 2 * index], log = KEYS[2 + 2 * index], entries = {}, fresh_entries = {}, gone = {},
    fresh = number() == 1, kind = nil, told = word(), requests = number(), span = number(), quantum = number(),
    interval = number(), burst = number(), in_flight = number(), linger = number(),
    bounds = { number(), number(), number() },
  }
  window.kind = window.told
  local fields = hash(window.key)
  if fields.b ~= whole(born) then
    if next(fields) then call('DEL', window.key, window.log) end
    fields = { b = whole(born) }
  end
  window.fields = fields
  window.floor = field(window, 'x')
  agree(window)
  if fields.k and fields.k ~= window.kind then
    -- Another kind of window counts otherwise: nothing of it is known.
    call('DEL', window.log)
    fields.n, window.floor = nil, math.max(window.floor, now + window.span)
  elseif fields.t and window.span > field(window, 't') then
    -- What a shorter span has forgotten would still count.
    window.floor = math.max(window.floor, now + window.span - field(window, 't'))
  end
  window.settled, window.began, window.over = field(window, 'n'), field(window, 'a'), field(window, 'o')
  window.mark, window.paused, window.period = field(window, 'm'), field(window, 'p'), field(window, 'c')
  if born > 0 then
    window.floor = math.max(window.floor, born + horizon_most + lease + window.linger + window.span)
  end
  window.horizon = math.min(horizon_own, math.floor(window.span / 4))
  if window.kind == 'calendar' then
    -- The gateway says when periods begin, and this clock in which one we are.
    local start, first = window.bounds[1], 1
    while first < 3 and now >= window.bounds[first + 1] do
      start, first = window.bounds[first + 1], first + 1
    end
    if now < start then
      window.ends = start
    else
      window.ends = window.bounds[first + 1]
      if start > window.period then window.period, window.settled = start, 0 end
    end
    if not window.ends then
      -- It does not know the period that we are in.
      window.ends, window.shut, window.mixed = now, true, true
    end
  end
  bury(window)
  window.held = window.fresh and 0 or field(window, 'u:' .. epoch)
  window.flying = window.fresh and 0 or field(window, 'f:' .. epoch)
  local held, flying = number(), number()
  if window.fresh then window.held, window.flying = held, flying end
  window.waiting = number()
  window.paused = math.max(window.paused, now + number())
  local returned, landed = number(), number()
  if not window.fresh then
    window.held = math.max(0, window.held - returned)
    window.flying = math.max(0, window.flying - landed)
  end
  for _ = 1, number() do
    local age, count = number(), number()
    -- This clock shows whole microseconds that have passed: it may be one later.
    settle(window, now + 1 - age, count)
    if not window.fresh then window.held = math.max(0, window.held - count) end
  end
  write_log(window)
  expire(window)
  return window
end

-- What all gateways together hold, and who waits.
local function sum_up(window)
  window.fields['u:' .. epoch], window.fields['f:' .. epoch] = nil, nil
  window.fields['q:' .. epoch] = nil
  local unsettled, flying, others = window.held, window.flying, 0
  for key in pairs(window.fields) do
    local what = key:sub(1, 2)
    if what == 'u:' then unsettled = unsettled + field(window, key)
    elseif what == 'f:' then flying = flying + field(window, key)
    elseif what == 'q:' then others = others + field(window, key)
    end
  end
  window.unsettled, window.all_flying, window.others = unsettled, flying, others
  if gateways > 0 then
    local hidden = unseen(window.span + window.linger)
    window.room = window.requests - hidden * math.floor(window.requests / gateways)
    window.most_flying = window.in_flight - hidden * math.floor(window.in_flight / gateways)
  else
    window.room, window.most_flying = window.requests, window.in_flight
  end
end

-- When the `count`-th slot from here opens; nil if that hangs on what is not settled yet.
local function slot_opens(window, count)
  if window.kind == 'none' then return now end
  local missing = window.unsettled + window.settled + count - window.room
  if missing <= 0 then return now end
  if window.unsettled + count > window.room then return nil end
  if window.kind == 'fixed' then return window.began + window.span end
  if window.kind == 'calendar' then return window.ends end
  window.walked, window.freed = window.walked or 0, window.freed or 0
  while window.freed < missing do
    local nxt = log_at(window, window.walked + 1)
    if not nxt then return nil end
    window.walked, window.freed = window.walked + 1, window.freed + nxt.count
  end
  return window.entries[window.walked].at + window.span
end

-- When the `nth` request of `cost` slots may go as far as this window is concerned; or nil, and when to look again.
local function opens(window, nth, cost)
  if window.shut then return nil, UNKNOWN_RETRY end
  if window.all_flying + nth > window.most_flying then return nil, FLIGHT_RETRY end
  local at = slot_opens(window, nth * cost)
  if not at then return nil, UNKNOWN_RETRY end
  at = math.max(at, now, window.floor, window.paused)
  if window.kind == 'calendar' then at = math.max(at, window.bounds[1]) end
  if window.kind == 'smooth' then
    at = math.max(at, window.next_mark + (cost - math.max(window.burst, cost)) * window.interval)
  end
  return at
end

-- How many slots are free by the horizon.
local function free_soon(window)
  local free = window.room - window.unsettled - window.settled
  if window.kind == 'fixed' or window.kind == 'calendar' then
    local ends = window.kind == 'fixed' and window.began + window.span or window.ends
    return ends <= now + window.horizon and window.room - window.unsettled or free
  end
  local index = 1
  while true do
    local nxt = log_at(window, index)
    if not nxt or nxt.at + window.span > now + window.horizon then return free end
    free, index = free + nxt.count, index + 1
  end
end

-- How many requests of `cost` slots this gateway may have, so that each gateway gets what its waiters are of all waiters.
local function allowance(window, cost)
  if window.kind == 'none' or window.others == 0 or window.shut then return math.huge end
  local part = window.waiting / math.max(1, window.waiting + window.others)
  local due = field(window, 'd:' .. epoch)
  local may = math.floor(math.ceil(due + free_soon(window) * part) / cost)
  local since = window.fields.s
  if since and now - tonumber(since) >= 2 * window.horizon then
    -- What nobody has come for is anybody's.
    may = math.max(may, math.floor((window.room - window.unsettled - window.settled) / cost))
  end
  if may < 1 then
    local first = true
    for key in pairs(window.fields) do
      if key:sub(1, 2) == 'q:' and field(window, 'd:' .. key:sub(3)) > due then first = false end
    end
    if first then may = 1 end
  end
  return math.max(0, may)
end

-- The others that wait here are owed their part of what was taken.
local function owe(window, taken)
  local all = window.waiting + window.others
  if window.others == 0 or all == 0 then
    window.fields['d:' .. epoch] = nil
    return
  end
  local most, waiting = window.requests, {}
  for key in pairs(window.fields) do
    if key:sub(1, 2) == 'q:' then waiting[#waiting + 1] = key:sub(3) end
  end
  for _, other in ipairs(waiting) do
    local due = field(window, 'd:' .. other) + taken * field(window, 'q:' .. other) / all
    window.fields['d:' .. other] = math.min(most, due)
  end
  local own = field(window, 'd:' .. epoch) + taken * window.waiting / all - taken
  window.fields['d:' .. epoch] = math.max(-most, own)
end

-- Takes ----------------------------------------------------------------------------------------------------------------

local windows = {}
for index = 1, number() do
  windows[index] = open_window(index)
  sum_up(windows[index])
end

local answer = { OK, now, born, 0 }
local function say(value)
  answer[#answer + 1] = value
end
for index, window in ipairs(windows) do
  if window.mixed then answer[4] = index end
end

-- Slots beyond those for who waits, where there is plenty for everybody.
local function spare(window, wanted)
  if wanted == 0 or window.others > 0 or window.kind == 'none' or window.kind == 'smooth' then return 0 end
  if math.max(window.floor, window.paused) > now or window.in_flight < UNCAPPED then return 0 end
  if window.kind == 'calendar' and now < window.bounds[1] then return 0 end
  local there = 0
  for _ in pairs(alive) do there = there + 1 end
  local plenty = window.room - window.unsettled - window.settled - math.floor(window.room / 2)
  return math.max(0, math.min(wanted, math.floor(plenty / (2 * math.max(1, there)))))
end

for _ = 1, number() do
  local most, wanted, parts = number(), number(), {}
  local may, horizon, span = most, math.huge, math.huge
  for part = 1, number() do
    local window, cost = windows[number()], number()
    parts[part] = { window = window, cost = cost }
    window.walked, window.freed, window.next_mark = nil, nil, window.mark
    horizon, span = math.min(horizon, window.horizon), math.min(span, window.span)
    may = math.min(may, allowance(window, cost))
  end
  local taken, groups, later = 0, {}, 0
  while taken < most do
    local at, retry = now, 0
    for _, part in ipairs(parts) do
      local opening, again = opens(part.window, taken + 1, part.cost)
      at, retry = at and opening and math.max(at, opening), math.max(retry, again or 0)
      part.later = opening and opening - now or math.min(part.window.span, again)
    end
    if not at then
      -- When it opens is not known: that is when to look again.
      later = -math.max(1, math.min(span, retry))
      break
    elseif at > now + horizon then
      later = at - now
      break
    elseif taken >= may then
      later = -math.max(1, horizon)
      break
    end
    taken = taken + 1
    local last = groups[#groups]
    if last and last.at == at then
      last.count = last.count + 1
    else
      groups[#groups + 1] = { at = at, count = 1 }
    end
    for _, part in ipairs(parts) do
      local window = part.window
      if window.kind == 'smooth' then
        window.next_mark = math.max(window.next_mark, at) + part.cost * window.interval
      end
    end
  end
  local extra = 0
  for _, part in ipairs(parts) do
    local window, slots = part.window, taken * part.cost
    window.held, window.unsettled = window.held + slots, window.unsettled + slots
    if window.in_flight < UNCAPPED then
      window.flying, window.all_flying = window.flying + taken, window.all_flying + taken
    end
    window.mark = window.next_mark
    owe(window, slots)
    window.waiting = math.max(0, window.waiting - slots)
    if #parts == 1 then
      extra = spare(window, wanted)
      window.held, window.unsettled = window.held + extra, window.unsettled + extra
    end
  end
  say(#groups)
  for _, each in ipairs(groups) do
    say(each.at - now)
    say(each.count)
  end
  say(extra)
  say(later)
  -- Which of the windows keeps the next one back, and for how long.
  for _, part in ipairs(parts) do
    say(later ~= 0 and part.later or 0)
  end
end

-- What is kept ---------------------------------------------------------------------------------------------------------

for _, window in ipairs(windows) do
  local fields = window.fields
  fields.k, fields.t, fields.n, fields.x = window.kind, whole(window.span), whole(window.settled), whole(window.floor)
  fields.a, fields.o = whole(window.began), whole(window.over)
  fields.m, fields.p, fields.c = whole(window.mark), whole(window.paused), whole(window.period)
  local mine = { u = window.held, f = window.flying, q = window.waiting }
  for of, value in pairs(mine) do
    local key = of .. ':' .. epoch
    if value > 0 and (verb ~= 'bye' or of == 'u') then
      fields[key] = whole(value)
    else
      fields[key] = nil
      window.gone[#window.gone + 1] = key
    end
  end
  if fields['d:' .. epoch] == nil then window.gone[#window.gone + 1] = 'd:' .. epoch end
  if window.room - window.unsettled - window.settled > 0 then
    fields.s = fields.s or whole(now)
  else
    fields.s = nil
    window.gone[#window.gone + 1] = 's'
  end
  if #window.gone > 0 then call('HDEL', window.key, unpack(window.gone)) end
  local flat = {}
  for key, value in pairs(fields) do
    flat[#flat + 1] = key
    flat[#flat + 1] = value
  end
  call('HSET', window.key, unpack(flat))
  -- As long as somebody holds slots of it, it is told again within a minute.
  local still = window.unsettled + window.all_flying > 0 and 600000 or 60000
  local keep = math.ceil(2 * window.span / 1000) + still
  keep = math.max(keep, math.ceil((math.max(window.paused, window.floor) - now) / 1000) + 60000)
  if window.kind == 'calendar' then keep = keep + math.ceil(math.max(0, window.ends - now) / 1000) end
  call('PEXPIRE', window.key, whole(keep))
  call('PEXPIRE', window.log, whole(keep))
end
return answer
