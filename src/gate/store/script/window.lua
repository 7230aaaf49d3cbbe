-- Part 2 of 3: the windows of the call. Log of settle times, terms that gateways agree on, slots of gateways that are gone.

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
    if window.kind == 'smooth' then window.mark = math.max(window.mark, bound) + count * window.interval end
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

-- What a gateway says of a limit, which it leaves for the others to see: requests, span, in_flight, kind, interval, burst,
-- linger, and of `calendar` the unit and the zone. Later versions may say more behind it.
local TERMS = '^(%d+):(%d+):(%d+):(%a+):(%d+):(%d+):(%d+):([^:]*)'

-- In what gateways differ, and that the caller is granted nothing for it; `differences.rs` puts it in words.
local REQUESTS, SPAN, IN_FLIGHT, KIND, SPACING, COUNTS, CALENDAR, CLOCK, UNKNOWN, KEY, SHUT =
  1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024

-- The terms on which gateways can agree: the place in TERMS, the cause, and the stricter of two.
local AGREED = {
  requests = { 1, REQUESTS, math.min }, span = { 2, SPAN, math.max }, in_flight = { 3, IN_FLIGHT, math.min },
  interval = { 5, SPACING, math.max }, burst = { 6, SPACING, math.min }, linger = { 7, COUNTS, math.max },
}

local function differ(window, cause)
  if not window.causes[cause] then window.causes[cause], window.cause = true, window.cause + cause end
end

local function shut(window, cause)
  differ(window, cause)
  differ(window, SHUT)
  window.shut = true
end

-- What another gateway says of the limit, `said`, and the caller: the strictest holds.
local function agree_with(window, own, said)
  local kind, calendar = said[4], said[8]
  for of, term in pairs(AGREED) do
    local place, cause, stricter = unpack(term)
    if cause ~= SPACING or kind == window.told then
      local theirs = tonumber(said[place])
      if theirs ~= own[of] then differ(window, cause) end
      window[of] = stricter(window[of], theirs)
    end
  end
  if kind ~= window.told then
    differ(window, KIND)
    if kind == window.fields.k then
      -- As long as somebody counts in the old way it is counted so, and who knows another waits.
      window.kind = kind
      shut(window, KIND)
    end
  elseif calendar ~= window.calendar then
    differ(window, CALENDAR)
  end
end

-- Whether another gateway is there that goes by this name: under its earlier names this one says nothing any more.
local function is_other(whose)
  return alive[whose] and not number_of(whose)
end

local function agree(window)
  local own = {}
  for of in pairs(AGREED) do own[of] = window[of] end
  local told = table.concat({
    whole(own.requests), whole(own.span), whole(own.in_flight), window.told, whole(own.interval), whole(own.burst),
    whole(own.linger), window.calendar,
  }, ':')
  for key, value in pairs(window.fields) do
    if key:sub(1, 2) == 'r:' and is_other(key:sub(3)) then
      local said = value ~= told and { value:match(TERMS) }
      if not said then
        window.calendars[window.calendar] = true
      elseif said[1] then
        window.calendars[said[8]] = true
        agree_with(window, own, said)
      else
        shut(window, UNKNOWN)
      end
    end
  end
  window.fields['r:' .. epoch] = told
  -- Where another counts what is answered, what this one has sent may be answered a linger later.
  window.late = window.linger - own.linger
end

-- limit -> whether the caller tells its windows apart otherwise than others, and since when they are told apart as now.
local told_apart = {}

-- Windows that are told apart otherwise never meet. As long as a gateway is there that tells them apart as it was said
-- first, who does otherwise is granted nothing; then what was counted may belong to any window.
local function compare_keys(window)
  local known = told_apart[window.limit]
  if not known then
    local since, whose, keyed = (call('HGET', keyings, window.limit) or ''):match('^(%d+):([^:]*):(.*)$')
    known = { since = tonumber(since) or 0, otherwise = false }
    if keyed and keyed ~= window.keyed then
      known.otherwise = is_other(whose)
      if not known.otherwise then known.since, whose = now, nil end
    end
    if not known.otherwise and whose ~= epoch and not is_other(whose or '') then
      call('HSET', keyings, window.limit, whole(known.since) .. ':' .. epoch .. ':' .. window.keyed)
    end
    told_apart[window.limit] = known
  end
  if known.otherwise then shut(window, KEY) end
  if known.since > 0 then
    window.floor = math.max(window.floor, known.since + horizon_most + lease + window.linger + window.span)
  end
end

-- What gateways hold that are gone: it may have been sent until they were last seen, or a little later.
local function bury(window)
  local gone, dead = {}, {}
  for key in pairs(window.fields) do
    local whose = key:sub(3)
    local number = number_of(whose)
    local earlier = number ~= nil and number < own_number
    if key:sub(2, 2) == ':' and whose ~= epoch and (not alive[whose] or earlier and window.fresh) then
      gone[whose] = earlier and 'earlier' or 'dead'
    end
  end
  for whose, which in pairs(gone) do
    local held, keep = field(window, 'u:' .. whose), false
    -- What this process held under an earlier name it tells again.
    if which == 'dead' and held > 0 then
      local said = { (window.fields['r:' .. whose] or ''):match(TERMS) }
      local linger = math.max(window.linger, tonumber(said[7]) or 0)
      local at = tonumber(call('ZSCORE', present, whose) or now - linger) + linger
      -- Where slots open all at one moment it counts in which window they settled: they do when that is certain.
      keep = (window.kind == 'fixed' or window.kind == 'calendar') and now < at
      if not keep then dead[#dead + 1] = { at = at, held = held } end
    end
    for _, of in ipairs({ 'u:', 'r:', 'f:', 'q:', 'd:' }) do
      local key = of .. whose
      if window.fields[key] and not (keep and (of == 'u:' or of == 'r:')) then
        window.gone[#window.gone + 1], window.fields[key] = key, nil
      end
    end
  end
  table.sort(dead, function(one, other) return one.at < other.at end)
  for _, each in ipairs(dead) do settle(window, each.at, each.held) end
end

-- `calendar`: in which period we are. The gateway says when its periods begin, and this clock in which of them we are.
local function find_period(window)
  local from, till, calendar = (window.fields.c or ''):match('^(%d+):(%d+):(.*)$')
  window.period, window.till, window.counted_by = tonumber(from) or 0, tonumber(till) or 0, calendar or ''
  if window.told ~= 'calendar' then
    window.ends = math.max(now, window.till)
    return
  end
  local bounds, first = window.bounds, 1
  while first < 3 and now >= bounds[first + 1] do first = first + 1 end
  local start, ends = bounds[first], bounds[first + 1]
  if not ends then
    -- It does not know the period that we are in.
    window.ends = now
    return shut(window, CLOCK)
  end
  local known = now >= start
  window.ends = known and ends or start
  if not known and start - now > ends - start then
    -- It is ahead of us by more than a period.
    return shut(window, CLOCK)
  end
  if start >= window.till then
    if not known then return end
    window.settled = 0
  elseif start == window.period and ends == window.till then
    return
  elseif window.calendars[window.counted_by] then
    -- As long as somebody counts in other periods it is counted so.
    return shut(window, CALENDAR)
  elseif known then
    -- Nobody does any more, and what was counted in those is not known of these.
    window.settled, window.floor = 0, math.max(window.floor, ends)
  else
    return
  end
  window.period, window.till, window.counted_by = start, ends, window.calendar
end

local function open_window(index)
  local window = {
    key = KEYS[3 + 2 * index], log = KEYS[4 + 2 * index], entries = {}, fresh_entries = {}, gone = {},
    fresh = number() == 1, kind = nil, told = word(), requests = number(), span = number(), quantum = number(),
    interval = number(), burst = number(), in_flight = number(), linger = number(),
    bounds = { number(), number(), number() }, calendar = word(), limit = word(), keyed = word(),
    -- In what others differ; which calendars they count by.
    causes = {}, cause = 0, calendars = {},
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
  compare_keys(window)
  if fields.k and fields.k ~= window.kind then
    -- Another kind of window counts otherwise: nothing of it is known.
    call('DEL', window.log)
    fields.n, fields.c, window.gone[1] = nil, nil, 'c'
    window.floor = math.max(window.floor, now + window.span)
  elseif fields.t and window.span > field(window, 't') then
    -- What a shorter span has forgotten would still count.
    window.floor = math.max(window.floor, now + window.span - field(window, 't'))
  end
  window.settled, window.began, window.over = field(window, 'n'), field(window, 'a'), field(window, 'o')
  window.mark, window.paused = field(window, 'm'), field(window, 'p')
  if born > 0 then
    window.floor = math.max(window.floor, born + horizon_most + lease + window.linger + window.span)
  end
  window.horizon = math.min(horizon_own, math.floor(window.span / 4))
  if window.kind == 'calendar' then find_period(window) end
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
    local late = (window.kind == 'sliding' or window.kind == 'smooth') and window.late or 0
    settle(window, now + 1 - age + late, count)
    if not window.fresh then window.held = math.max(0, window.held - count) end
  end
  write_log(window)
  expire(window)
  return window
end
