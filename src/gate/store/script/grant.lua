-- Part 3 of 3: the grants. Openings, fair parts, takes; then all that is kept is written, and the answer returned.

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
  window.room = window.requests - withheld(window.requests, window.span + window.linger)
  window.most_flying = window.in_flight - withheld(window.in_flight, window.span + window.linger)
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
    -- Any of those that are not settled may be sent at the same moment: their distances and this one's must be saved up.
    local saved = math.max(window.burst, cost) * window.interval
    local needed = (window.unsettled + nth * cost) * window.interval
    local due = math.max(window.mark, now) + needed - saved
    if needed > saved then
      -- It opens then if they are sent now. To look again somewhat earlier finds it before it opens.
      return nil, math.max(SOONEST_RETRY, math.min(UNKNOWN_RETRY, due - now - math.floor(window.horizon * 3 / 4)))
    end
    at = math.max(at, due)
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

local answer = { OK, now, born, others_differ and 1 or 0, 0 }
local function say(value)
  answer[#answer + 1] = value
end
for index, window in ipairs(windows) do
  if window.cause > 0 then
    answer[5] = answer[5] + 1
    say(index)
    say(window.cause)
    say(window.span)
  end
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
    window.walked, window.freed = nil, nil
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
  end
  local extra = 0
  for _, part in ipairs(parts) do
    local window, slots = part.window, taken * part.cost
    window.held, window.unsettled = window.held + slots, window.unsettled + slots
    if window.in_flight < UNCAPPED then
      window.flying, window.all_flying = window.flying + taken, window.all_flying + taken
    end
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
  fields.m, fields.p = whole(window.mark), whole(window.paused)
  if window.period then fields.c = whole(window.period) .. ':' .. whole(window.till) .. ':' .. window.counted_by end
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
  if window.kind == 'calendar' then keep = keep + math.ceil((math.max(now, window.ends, window.till) - now) / 1000) end
  call('PEXPIRE', window.key, whole(keep))
  call('PEXPIRE', window.log, whole(keep))
end
return answer
