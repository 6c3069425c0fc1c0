# Sidekiq's side of scripts/bench-queue: the file that `sidekiq -r` loads, and `ruby sidekiq.rb push|tick|hold N`.
# Everything is Sidekiq's default but the log's level.
require 'sidekiq'

redis = { url: ENV.fetch('BENCH_REDIS') }
Sidekiq.configure_server { |config| config.redis = redis }
Sidekiq.configure_client { |config| config.redis = redis }

def now_ns = Process.clock_gettime(Process::CLOCK_REALTIME, :nanosecond)
def note(line) = File.write(ENV.fetch('BENCH_SEEN'), "#{line}\n", mode: 'a')

class Nop
  include Sidekiq::Worker

  def perform(payload)
    case payload[0]
    when 't' then note(now_ns - payload.split.first[1..].to_i)
    when 's'
      sleep 0.1
      note(payload.split.first[1..])
    end
  end
end

if $PROGRAM_NAME == __FILE__
  what = ARGV[0]
  n = ARGV[1].to_i
  begun = Process.clock_gettime(Process::CLOCK_MONOTONIC)
  passed = -> { Process.clock_gettime(Process::CLOCK_MONOTONIC) - begun }
  if what == 'tick'
    n.times do |k|
      sleep [0, k * 0.02 - passed.call].max
      Nop.perform_async("t#{now_ns} ".ljust(98, 'x'))
    end
  else
    (0...n).each_slice(1000) do |some|
      args = some.map { |k| [(what == 'hold' ? "s#{k} " : 'x').ljust(98, 'x')] }
      Sidekiq::Client.push_bulk('class' => Nop, 'args' => args)
    end
  end
  puts passed.call
end
