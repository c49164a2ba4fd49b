select
    * exclude (reason),
    coalesce(
        reason,
        case
            when user_id is null then 'missing_user'
            when {{ is_test_user('user_id') }} then 'test_traffic'
        end
    ) as reason
from {{ ref('stg_canonical__users') }}
